//go:build unix

package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Bug is a mistake that the suite has to catch. It is not in the bridge's code:
// a build with an overlay has it in its place, behind a switch.
type Bug struct {
	Name string
	// Why is what goes wrong with it.
	Why string
	// File has Old exactly once, and New in its place. In New, BUG is true
	// where the bug is switched on.
	File, Old, New string
	// Kinds of faults that bring it out, and how many of them at most.
	Kinds  []string
	Faults int
}

// Bugs are those that the suite is tried with.
var Bugs = []Bug{
	{
		"uid ignored", "a namesake is taken for the object before it",
		"pkg/flow/observe.go", "same := s.alive && s.known.uid == seen.uid", "same := s.alive && (BUG || s.known.uid == seen.uid)",
		[]string{"history compacted", "bridge killed"}, 6,
	},
	{
		"ledger before ack", "what the sink did not take counts as delivered",
		"pkg/flow/deliver.go", "durable, err := r.flow.publisher.Publish(r.delivering, toSend)\n",
		"durable, err := r.flow.publisher.Publish(r.delivering, toSend)\n\t\tif BUG {\n\t\t\tdurable, err = len(toSend), nil\n\t\t}\n",
		[]string{"nats killed", "nats line"}, 6,
	},
	{
		"no fence", "a bridge that was taken over from goes on delivering",
		"pkg/sinks/nats/publish.go", "if f.fenced && (len(w.messages) == 0 || !w.atomic) {", "if !BUG && f.fenced && (len(w.messages) == 0 || !w.atomic) {",
		[]string{"nats late bytes", "bridge replaced while paused"}, 20,
	},
	{
		"fence not moved", "what is on its way after a failure arrives behind what is sent again",
		"pkg/sinks/nats/claim.go", "if err := p.moveFence(ctx, ses); err != nil {\n\t\t\treturn err\n\t\t}\n", "if !BUG {\n\t\t\tif err := p.moveFence(ctx, ses); err != nil {\n\t\t\t\treturn err\n\t\t\t}\n\t\t}\n",
		[]string{"nats late bytes"}, 25,
	},
	{
		"no settling", "what had no answer is sent again, whether or not it arrived",
		"pkg/sinks/nats/claim.go", "if !p.ambiguous {\n\t\treturn nil\n\t}", "if BUG {\n\t\tp.ambiguous = false\n\t}\n\tif !p.ambiguous {\n\t\treturn nil\n\t}",
		[]string{"nats line", "nats killed"}, 20,
	},
	{
		"tail before epoch", "what another bridge wrote last is not read",
		"pkg/sinks/nats/claim.go", "\tto := p.fence\n\tif !f.fenced {", "\tto := p.fence\n\tif BUG && r.previous > 0 {\n\t\tto = r.previous\n\t}\n\tif !f.fenced {",
		[]string{"bridge killed"}, 12,
	},
	{
		"position ahead", "the position is that of the newest event, also during a list",
		"pkg/flow/ledger.go", "\tif !i.gone {\n\t\tl.rows.put(i.key, r)\n", "\tif BUG && l.watches.of(i.key) != nil {\n\t\tl.watches.of(i.key).reach(r.version)\n\t}\n\tif !i.gone {\n\t\tl.rows.put(i.key, r)\n",
		[]string{"history compacted"}, 12,
	},
	{
		"reordered", "of two events in a batch the second is sent first",
		"pkg/flow/deliver.go", "\tfor retry := firstRetry; len(toSend) > 0; {\n", "\tif BUG && len(toSend) > 1 {\n\t\ttoSend[0], toSend[1] = toSend[1], toSend[0]\n\t}\n\tfor retry := firstRetry; len(toSend) > 0; {\n",
		[]string{"nats line", "nats killed"}, 12,
	},
	{
		"tombstone forgotten", "a watch that repeats itself brings the dead back",
		"pkg/flow/ledger_journal.go", "\t\tl.dead.put(r.Key, died)\n", "\t\tif !BUG {\n\t\t\tl.dead.put(r.Key, died)\n\t\t}\n",
		[]string{"bridge killed"}, 15,
	},
	{
		"snapshot off by one", "the first message after a snapshot is not read",
		"pkg/sinks/nats/claim.go", "r.from, r.restored = ref.Sequence+1, true", "r.from, r.restored = ref.Sequence+1, true\n\t\t\tif BUG {\n\t\t\t\tr.from += 40\n\t\t\t}",
		[]string{"bridge stopped", "bridge killed"}, 12,
	},
	{
		"absence ignored", "what a list has not is not told to be deleted",
		"pkg/flow/watcher.go", "return of.list != w.list && of.version <= version && w.covers(key)", "return !BUG && of.list != w.list && of.version <= version && w.covers(key)",
		[]string{"history compacted", "crd recreated unseen"}, 6,
	},
	{
		"filtered rows not kept", "what was never sent is forgotten in a crash",
		"pkg/flow/save.go", "\tif s.rows == nil {\n", "\tif BUG {\n\t\treturn\n\t}\n\tif s.rows == nil {\n",
		[]string{"bridge killed"}, 40,
	},
	{
		"drained too early", "a drain that was cut short counts as done",
		"pkg/flow/drain.go", "for left := range r.flow.ledger.upTo(absent) {", "n := 0\n\tfor left := range r.flow.ledger.upTo(absent) {\n\t\tif n++; BUG && n > 3 {\n\t\t\tr.flow.ledger.mu.Lock()\n\t\t\tr.flow.ledger.rows.delete(left.key)\n\t\t\tr.flow.ledger.mu.Unlock()\n\t\t\tcontinue\n\t\t}",
		[]string{"crd gone unseen"}, 6,
	},
	{
		"old list believed", "a list may be older than what was delivered",
		"pkg/sources/list.go", "options := metav1.ListOptions{Limit: firstPage}", "options := metav1.ListOptions{Limit: firstPage}\n\tif BUG {\n\t\toptions = metav1.ListOptions{ResourceVersion: \"0\"}\n\t}",
		[]string{"api server lags"}, 12,
	},
	{
		"selection's word believed", "what leaves a selector is told to exist, and may be gone",
		"pkg/flow/fate.go", "into[o.key] = fate{exists: uid == types.UID(o.uid.String()), asOf: asOf}", "into[o.key] = fate{exists: BUG || uid == types.UID(o.uid.String()), asOf: asOf}",
		[]string{"reload"}, 20,
	},
	{
		"newly selected not told", "what a changed route selects is told when it changes next",
		"pkg/flow/ledger.go", "\tl.selection = inTransition\n\tl.changes++\n\treturn true\n", "\tl.selection = inTransition\n\tl.changes++\n\treturn !BUG\n",
		[]string{"reload"}, 20,
	},
	{
		"list not compared", "an object of a list that is known in another version is taken for unchanged",
		"pkg/flow/watcher.go", "s.known.uid != seen.uid, s.known.version != seen.version,", "s.known.uid != seen.uid, !BUG && s.known.version != seen.version,",
		[]string{"history compacted"}, 6,
	},
	{
		"shared without history", "flows that share a watch go on sharing when it has no history, and never list",
		"pkg/sources/feed.go", "\t\tr.wary = true\n", "\t\tr.wary = !BUG\n",
		[]string{"history compacted"}, 10,
	},
	{
		"joined without the log", "a flow that goes on with another's watch misses what that one has read ahead",
		"pkg/sources/feed.go", "f.entries[r.next-1-f.first].version > r.position {", "!BUG && f.entries[r.next-1-f.first].version > r.position {",
		[]string{"bridge killed", "api line"}, 20,
	},
}

const bugVariable = "BRIDGE_BUG"

// Overlay writes, into the folder, what `go build -overlay` needs to build the
// bridge with all bugs in it, and returns the flag. Root is the top of the tree.
func Overlay(root, dir string) (flag string, err error) {
	files := map[string]string{}
	for _, bug := range Bugs {
		content, known := files[bug.File]
		if !known {
			raw, err := os.ReadFile(filepath.Join(root, bug.File))
			if err != nil {
				return "", err
			}
			content = strings.Replace(string(raw), "import (\n", "import (\n\t\"github.com/crbridge/crbridge/internal/bug\"\n", 1)
		}
		if n := strings.Count(content, bug.Old); n != 1 {
			return "", fmt.Errorf("bug %q: %s has its place %d times, not once: %q", bug.Name, bug.File, n, bug.Old)
		}
		files[bug.File] = strings.Replace(content, bug.Old, strings.ReplaceAll(bug.New, "BUG", fmt.Sprintf("bug.On(%q)", bug.Name)), 1)
	}
	files["internal/bug/bug.go"] = fmt.Sprintf(`// Package bug switches the bugs on that the fault suite is tried with.
package bug

import "os"

var chosen = os.Getenv(%q)

// On tells whether the bug is chosen.
func On(name string) bool { return name == chosen }
`, bugVariable)
	replace := map[string]string{}
	for file, content := range files {
		path := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = path
	}
	encoded, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return "-overlay=" + path, os.WriteFile(path, encoded, 0o600)
}
