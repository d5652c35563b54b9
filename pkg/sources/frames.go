package sources

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/crbridge/crbridge/pkg/object"
)

const (
	// firstFrame is the memory that a watch has to read into: enough for most
	// custom resources, and little for those that wait. It grows to the largest
	// frame that comes.
	firstFrame = 4 << 10
	// largestFrame is far above what etcd takes for an object, which is 1.5 MiB
	// unless it is told otherwise.
	largestFrame = 256 << 20
)

// frames reads a watch's body.
type frames struct {
	scanner object.Scanner
	input   *bufio.Scanner
	event   watch.Event // the one that was read last
	looked  int         // there is no end of a line before that
}

func newFrames(body io.Reader) *frames {
	f := &frames{input: bufio.NewScanner(body)}
	f.input.Buffer(make([]byte, 0, firstFrame), largestFrame)
	f.input.Split(f.split)
	return f
}

// next waits for the next event.
func (f *frames) next() (watch.Event, error) {
	if f.input.Scan() {
		return f.event, nil
	}
	if err := f.input.Err(); err != nil {
		return watch.Event{}, err
	}
	return watch.Event{}, io.EOF
}

// split is a bufio.SplitFunc. The API server ends each frame with a line, which
// says when it is worth looking; what counts is where its JSON ends.
func (f *frames) split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if !atEOF && bytes.IndexByte(data[f.looked:], '\n') < 0 {
		f.looked = len(data)
		return 0, nil, nil
	}
	frame, n, err := f.scanner.Frame(data)
	switch {
	case errors.Is(err, io.EOF):
		f.looked = 0
		return len(data), nil, nil
	case errors.Is(err, io.ErrUnexpectedEOF) && !atEOF:
		f.looked = len(data)
		return 0, nil, nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 0, nil, io.EOF // cut off with the connection; what is missing comes with the next watch
	case errors.Is(err, object.ErrUnusual):
		f.event, err = decodedEvent(data[:n])
	case err == nil:
		f.event, err = eventOf(frame)
	}
	if err != nil {
		return 0, nil, err
	}
	for n < len(data) && (data[n] == '\n' || data[n] == ' ') {
		n++
	}
	f.looked = 0
	return n, data[:n], nil
}
