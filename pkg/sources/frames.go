package sources

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/crbridge/crbridge/pkg/object"
)

const (
	// firstRead is the memory that a watch has to read into: little for those
	// that wait. It doubles while there is more to read than it takes.
	firstRead = 1 << 10
	// mostRead is what it grows to, but for a frame that is larger. A read costs
	// as much as some events do, and brings what there is.
	mostRead = 64 << 10
	// largestFrame is far above what etcd takes for an object, which is 1.5 MiB
	// unless it is told otherwise.
	largestFrame = 256 << 20
)

// frames reads a watch's body.
type frames struct {
	scanner object.Scanner
	body    io.Reader
	buffer  []byte // what was read and not taken
	space   []byte // the memory that it is in
	looked  int    // there is no end of a line before that
	more    bool   // the last read took all that there was room for
	err     error  // why nothing more can be read
	intake  intake
}

func newFrames(body io.Reader) *frames { return &frames{body: body} }

// next waits for the next event.
func (f *frames) next() (watch.Event, error) {
	for {
		event, found, err := f.take()
		switch {
		case err != nil:
			f.err = err
			return watch.Event{}, err
		case found:
			return event, nil
		case f.err != nil:
			return watch.Event{}, f.err
		}
		f.read()
	}
}

// take takes the first frame of what was read, if it is there. The API server
// ends each frame with a line, which says when it is worth looking; what counts
// is where its JSON ends.
func (f *frames) take() (event watch.Event, found bool, err error) {
	ended := f.err != nil
	if !ended && bytes.IndexByte(f.buffer[f.looked:], '\n') < 0 {
		f.looked = len(f.buffer)
		return event, false, nil
	}
	frame, n, err := f.scanner.Frame(f.buffer)
	switch {
	case errors.Is(err, io.EOF):
		f.buffer, f.looked = nil, 0
		return event, false, nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		// At the end it was cut off with the connection; what is missing comes
		// with the next watch.
		f.looked = len(f.buffer)
		return event, false, nil
	case errors.Is(err, object.ErrUnusual):
		event, err = decodedEvent(f.buffer[:n])
	case err == nil:
		event, err = eventOf(frame)
	}
	if err != nil {
		return event, false, err
	}
	for n < len(f.buffer) && (f.buffer[n] == '\n' || f.buffer[n] == ' ') {
		n++
	}
	f.buffer, f.looked = f.buffer[n:], 0
	return event, true, nil
}

// read reads once, behind what was not taken.
func (f *frames) read() {
	size := max(len(f.space), firstRead)
	switch {
	case len(f.buffer) == size:
		size *= 2 // for the frame
	case len(f.buffer) == 0 && size > mostRead:
		size = firstRead // after a large one
	case f.more && size < mostRead:
		size *= 2
	}
	if size > largestFrame {
		f.err = fmt.Errorf("an event of the watch is larger than %d bytes", largestFrame)
		return
	}
	kept := len(f.buffer)
	if size != len(f.space) {
		space := make([]byte, size)
		copy(space, f.buffer)
		f.space = space
	} else {
		copy(f.space, f.buffer)
	}
	f.intake.waits()
	n, err := f.body.Read(f.space[kept:])
	f.intake.got(n)
	f.buffer, f.err, f.more = f.space[:kept+n], err, n == len(f.space)-kept
}
