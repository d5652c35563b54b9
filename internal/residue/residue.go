// Package residue gives back to the system the memory that only a start needed.
package residue

import "runtime/debug"

// GiveBack has the system take back what is free of Go's heap, and the pages of
// the executable that nobody has written to: what runs on reads those again that
// it needs, from the kernel's cache of files as a rule. It returns how many bytes
// of the executable were in memory; 0 where that cannot be done or known, which is
// the case on everything but Linux.
//
// The initialization of packages touches most of what is mapped of an executable,
// once; the kernel drops such pages when memory is short, and until then they
// count as the process' own (RssFile in /proc/PID/status). A collection of
// the whole heap is part of it, so it is nothing for times of load.
func GiveBack() (int, error) {
	debug.FreeOSMemory()
	return dropExecutable()
}
