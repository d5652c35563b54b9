package main

import (
	"crypto/sha256"
	"os"
	"time"
)

// watchEvery is how often files are read to see whether they have changed. What
// two readings agree on is taken, so that a file is not taken half-written.
const watchEvery = 500 * time.Millisecond

// contents is what a group of files has in it. They are read rather than
// watched for events: a ConfigMap and a Secret are swapped by a symbolic link,
// editors rename, and a network's file system tells nothing.
type contents struct {
	taken [sha256.Size]byte // that was acted on
	seen  [sha256.Size]byte // at the last reading
}

// stand is the digest of the files' names and content: a file that cannot be
// read is told from an empty one.
func stand(files ...string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(file)
		one := sha256.Sum256(content)
		h.Write([]byte(file))
		if err != nil {
			h.Write([]byte{0})
			continue
		}
		h.Write(append([]byte{1}, one[:]...))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// newContents are the files as they are now.
func newContents(files ...string) *contents {
	now := stand(files...)
	return &contents{taken: now, seen: now}
}

// changed tells whether the files have something else in them than what was
// acted on, and are done changing. It is then taken for acted on.
func (c *contents) changed(files ...string) bool {
	now := stand(files...)
	settled := now == c.seen
	c.seen = now
	if !settled || now == c.taken {
		return false
	}
	c.taken = now
	return true
}
