package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is how much of the container's memory Go is told to stay below.
// The limit is soft, and counts only what Go has mapped: the rest is for what
// is allocated while the collector is at work, and for what the kernel counts
// besides, such as the pages of the binary, page tables and buffers of sockets.
const memoryShare = 0.9

// limitMemory has Go stay below the limit of the container, unless GOMEMLIMIT
// says otherwise, and tells where the limit in force comes from. Without one,
// or where it cannot be found out, Go goes on without: that is how the bridge
// runs on a machine of its own.
func limitMemory(environ []string, container memlimit.Provider) string {
	// Go takes an empty one for none.
	if variable(environ, "GOMEMLIMIT") != "" {
		return "GOMEMLIMIT"
	}
	limit, err := memlimit.ApplyRatio(container, memoryShare)()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		return "there is no limit"
	case err != nil:
		return fmt.Sprintf("the container's limit is not known: %v", err)
	case limit == 0, limit >= math.MaxInt64: // neither means anything
		return "there is no limit"
	}
	debug.SetMemoryLimit(int64(limit))
	return fmt.Sprintf("%g of the container's limit", memoryShare)
}

// processorsFrom says where the number of processors comes from that Go uses, or
// uses at most, as governProcessors has it. Go itself looks at the container's CPU
// limit, and goes on looking.
func processorsFrom(environ []string, used, there int) string {
	switch {
	case processorsGiven(environ):
		return "GOMAXPROCS"
	case used < there:
		return "the container's CPU limit"
	default:
		return "the machine's CPUs"
	}
}

// processorsGiven tells whether GOMAXPROCS says how many processors Go uses.
func processorsGiven(environ []string) bool {
	n, err := strconv.Atoi(variable(environ, "GOMAXPROCS"))
	return err == nil && n > 0
}

// tellResources logs what Go's runtime keeps to.
func tellResources(log *slog.Logger, environ []string, memoryFrom string) {
	processors, memory := runtime.GOMAXPROCS(0), "off" // the word for GOMEMLIMIT, too
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		memory = fmt.Sprintf("%dMiB", limit>>20)
	}
	log.Info("resources",
		"processors", processors, "processorsFrom", processorsFrom(environ, processors, runtime.NumCPU()),
		"memoryLimit", memory, "memoryLimitFrom", memoryFrom)
}

// variable is the value of an environment variable, empty where there is none.
func variable(environ []string, name string) string {
	for _, entry := range environ {
		if value, is := strings.CutPrefix(entry, name+"="); is {
			return value
		}
	}
	return ""
}
