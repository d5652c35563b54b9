package stdout

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// pipe is an output whose reader ends and comes again: a named one.
type pipe struct {
	path string
	w    *os.File

	mu    sync.Mutex
	r     *os.File
	ended chan struct{} // closed when what reads r has ended
	rest  []byte        // of a line that was read in part
	lines [][]byte
	seen  *sync.Cond // more lines
}

func newPipe(t *testing.T) *pipe {
	t.Helper()
	p := &pipe{path: filepath.Join(t.TempDir(), "output")}
	p.seen = sync.NewCond(&p.mu)
	if err := syscall.Mkfifo(p.path, 0o600); err != nil {
		t.Fatal(err)
	}
	p.read(t)
	var err error
	if p.w, err = os.OpenFile(p.path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop(t)
		p.w.Close()
	})
	return p
}

// read begins to read, or goes on.
func (p *pipe) read(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := os.OpenFile(p.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	p.r, p.ended = r, ended
	go func() {
		defer close(ended)
		p.follow(r)
	}()
}

func (p *pipe) follow(r io.Reader) {
	buffer := make([]byte, 4096)
	for {
		n, err := r.Read(buffer)
		p.mu.Lock()
		p.rest = append(p.rest, buffer[:n]...)
		for {
			line, rest, whole := bytes.Cut(p.rest, []byte{'\n'})
			if !whole {
				break
			}
			p.lines, p.rest = append(p.lines, bytes.Clone(line)), rest
		}
		p.seen.Broadcast()
		p.mu.Unlock()
		if errors.Is(err, io.EOF) {
			time.Sleep(time.Millisecond) // nobody has opened it for writing yet
			continue
		}
		if err != nil {
			return
		}
	}
}

// stop ends the reader. What it has not read stays in the pipe.
func (p *pipe) stop(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	r, ended := p.r, p.ended
	p.r = nil
	p.mu.Unlock()
	if r == nil {
		return
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	<-ended
}

// pause has nothing read, and nothing fit into the pipe. The pipe has a reader
// all the while: the one who writes here.
func (p *pipe) pause(t *testing.T) (resume func(t *testing.T)) {
	t.Helper()
	full, err := os.OpenFile(p.path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.stop(t)
	for _, size := range []int{4096, 1} { // empty lines, until not one more fits
		for err = nil; err == nil; {
			if err := full.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			_, err = full.Write(bytes.Repeat([]byte{'\n'}, size))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	return func(t *testing.T) {
		t.Helper()
		p.read(t)
		full.Close()
	}
}

// all is what was read, once all that is in the pipe was.
func (p *pipe) all(t *testing.T) [][]byte {
	t.Helper()
	mark := fmt.Sprintf("mark %d", time.Now().UnixNano())
	if _, err := p.w.WriteString(mark + "\n"); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for from := 0; ; p.seen.Wait() {
		for ; from < len(p.lines); from++ {
			if string(p.lines[from]) == mark {
				return p.lines[:from:from]
			}
		}
	}
}

// events are those of the lines.
func (p *pipe) events(t *testing.T) (all []event.Event) {
	t.Helper()
	for _, line := range p.all(t) {
		if len(line) == 0 || bytes.HasPrefix(line, []byte("mark ")) {
			continue
		}
		var e event.Event
		if err := event.ReadJson(&e, bufio.NewReader(bytes.NewReader(line))); err != nil {
			t.Fatalf("a line that is no event: %v\n%s", err, line)
		}
		all = append(all, e)
	}
	return all
}
