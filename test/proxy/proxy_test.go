package proxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crbridge/crbridge/test/proxy"
)

// TestModes sends a word over a connection that existed before the mode and one
// that is newer, looks how far it comes, and sees it arrive when all passes.
func TestModes(t *testing.T) {
	const word = "word"
	type held struct{ up, down int }
	for _, tc := range []struct {
		mode proxy.Mode
		name string
		// How far the word comes.
		existing, newer held
		newUnseen       bool // the server sees no new connection
	}{
		{mode: proxy.Pass, name: "pass"},
		{mode: proxy.Delay(time.Millisecond), name: "delay 1ms"},
		// Long enough never to be over: it is the next mode that delivers.
		{mode: proxy.Delay(time.Hour), name: "delay 1h0m0s", existing: held{up: 4}, newer: held{up: 4}},
		{mode: proxy.Stall, name: "stall", existing: held{up: 4}, newUnseen: true},
		{mode: proxy.HalfOpen, name: "half-open", existing: held{down: 4}, newer: held{down: 4}},
		{mode: proxy.HalfOpenUp, name: "half-open up", existing: held{up: 4}, newer: held{up: 4}},
		{mode: proxy.Late, name: "late", existing: held{up: 4}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.mode.String(); got != tc.name {
				t.Errorf("mode is called %q", got)
			}
			server := record(t)
			p := start(t, server.addr())
			existing := dialled(t, p)
			for range 2 { // each mode can be had again
				before := server.got(0)
				newest := server.accepted()
				set(t, p, tc.mode)
				if got := p.Mode(); got != tc.mode {
					t.Errorf("mode is %s", got)
				}

				send(t, existing, word)
				holds(t, p, tc.existing.up, tc.existing.down)
				if tc.existing.up > 0 && server.got(0) != before {
					t.Fatalf("the server got %q", server.got(0))
				}
				newer := dial(t, p)
				send(t, newer, word)
				holds(t, p, tc.existing.up+tc.newer.up, tc.existing.down+tc.newer.down)
				if tc.newUnseen && server.accepted() != newest {
					t.Fatal("the server saw a new connection")
				}
				if tc.newer.down > 0 && server.got(newest) != word {
					t.Fatalf("the server got %q over the new connection", server.got(newest))
				}

				set(t, p, proxy.Pass)
				receive(t, existing, word)
				receive(t, newer, word)
				if got := server.got(0); got != before+word {
					t.Errorf("the server got %q", got)
				}
				holds(t, p, 0, 0)
			}
		})
	}
}

// TestDelay sees order kept and each chunk late, while more than one is on its
// way.
func TestDelay(t *testing.T) {
	const d = 100 * time.Millisecond
	server := record(t)
	p := start(t, server.addr())
	c := dialled(t, p)
	set(t, p, proxy.Delay(d))
	const chunks = 50
	begin := time.Now()
	for i := range chunks {
		send(t, c, string(rune('A'+i)))
	}
	for i := range chunks {
		receive(t, c, string(rune('A'+i)))
		if i == 0 && time.Since(begin) < 2*d {
			t.Errorf("back after %s", time.Since(begin))
		}
	}
	// One after the other they would take 100 delays.
	if took := time.Since(begin); took > 20*d {
		t.Errorf("took %s", took)
	}
}

// TestBackpressure fills a stalled connection until its client blocks.
func TestBackpressure(t *testing.T) {
	const buffer = 64 << 10
	server := record(t)
	p := start(t, server.addr(), proxy.WithBuffer(buffer))
	c := dialled(t, p)
	set(t, p, proxy.Stall)

	var sent bytes.Buffer
	chunk := []byte(strings.Repeat("0123456789abcdefg", 4000))
	for {
		if err := c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Write(chunk)
		sent.Write(chunk[:n])
		if err != nil {
			break
		}
	}
	if held, _ := p.Held(); held < buffer/2 || held > buffer+32<<10 {
		t.Errorf("%d bytes held", held)
	}
	set(t, p, proxy.Pass)
	receive(t, c, sent.String())
}

// TestStallInterruptsWrite stalls while a write to a server that does not read
// is under way: Set must not wait for it, and no byte may get lost.
func TestStallInterruptsWrite(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := start(t, l.Addr().String())
	c := dial(t, p)
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	data := strings.Repeat("0123456789abcdefg", 1<<20)
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, data)
		sent <- err
	}()
	eventually(t, "the server's buffers are full", func() bool { up, _ := p.Held(); return up > 1<<20 })
	for range 20 {
		set(t, p, proxy.Stall)
		set(t, p, proxy.Pass)
	}
	receive(t, server, data)
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestCut(t *testing.T) {
	server := record(t)
	p := start(t, server.addr())
	for _, mode := range []proxy.Mode{proxy.Pass, proxy.HalfOpen, proxy.HalfOpenUp, proxy.Stall, proxy.Late} {
		set(t, p, proxy.Pass)
		clients := []net.Conn{dialled(t, p), dialled(t, p)}
		ended := server.endings()
		set(t, p, mode)
		if n := p.Cut(); n != len(clients) {
			t.Errorf("%s: %d connections cut", mode, n)
		}
		for _, c := range clients {
			isReset(t, c)
		}
		eventually(t, "the server sees the end", func() bool { return server.endings() == ended+len(clients) })
		if got := p.Mode(); got != mode {
			t.Errorf("mode is %s after a cut, was %s", got, mode)
		}
	}
	set(t, p, proxy.Pass)
	dialled(t, p)
}

func TestRefuse(t *testing.T) {
	server := record(t)
	p := start(t, server.addr())
	for _, next := range []proxy.Mode{proxy.Pass, proxy.Delay(time.Millisecond)} {
		c := dialled(t, p)
		set(t, p, proxy.Refuse)
		set(t, p, proxy.Refuse) // as it is already
		isReset(t, c)
		if c, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial: %v, %v", c, err)
		}
		set(t, p, next)
		dialled(t, p)
	}
	if got := proxy.Refuse.String(); got != "refuse" {
		t.Errorf("mode is called %q", got)
	}
}

// TestEnds passes on how a connection ends, also when it ends behind a stall.
func TestEnds(t *testing.T) {
	server := record(t)
	p := start(t, server.addr())

	c := dialled(t, p).(*net.TCPConn)
	set(t, p, proxy.Stall)
	send(t, c, "last words")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	holds(t, p, len("last words"), 0)
	if server.endings() != 0 {
		t.Error("the server saw the end through a stall")
	}
	set(t, p, proxy.Pass)
	receive(t, c, "last words")
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v after the server closed", n, err)
	}

	c = dialled(t, p).(*net.TCPConn)
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "the server sees the reset", func() bool { return server.endings() == 2 })

	other := dialled(t, p)
	server.disconnect()
	if n, err := other.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d, %v after the server closed", n, err)
	}
}

func TestSetTarget(t *testing.T) {
	first, second := record(t), record(t)
	p := start(t, first.addr())
	existing := dialled(t, p)
	p.SetTarget(second.addr())
	newer := dialled(t, p)
	send(t, existing, "1")
	receive(t, existing, "1")
	send(t, newer, "2")
	receive(t, newer, "2")
	if first.got(0) != "hello 1" || second.got(0) != "hello 2" {
		t.Errorf("the first target got %q, the second %q", first.got(0), second.got(0))
	}

	// A target that is down costs the client its connection, no more.
	second.listener.Close()
	// The reset may be there before the client has seen it connect.
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		isReset(t, c)
		c.Close()
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	send(t, existing, "3")
	receive(t, existing, "3")
}

// TestClose closes in each mode, with connections and held bytes; TestMain sees
// what is left.
func TestClose(t *testing.T) {
	server := record(t)
	for _, mode := range []proxy.Mode{proxy.Pass, proxy.Delay(time.Hour), proxy.Stall, proxy.HalfOpen, proxy.HalfOpenUp, proxy.Refuse, proxy.Late} {
		p := start(t, server.addr())
		c := dialled(t, p)
		set(t, p, mode)
		if mode != proxy.Refuse {
			send(t, c, "word")
			dial(t, p)
		}
		for range 2 {
			if err := p.Close(); err != nil {
				t.Errorf("%s: %v", mode, err)
			}
		}
		if mode != proxy.Pass { // there the echo may be first
			isReset(t, c)
		}
		if err := p.Set(proxy.Pass); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: set after close: %v", mode, err)
		}
	}
}

// TestWithPort starts a proxy where another one was, as a restarted server is.
func TestWithPort(t *testing.T) {
	server := record(t)
	first := start(t, server.addr())
	c := dialled(t, first)
	_, port, err := net.SplitHostPort(first.Addr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := proxy.Start(t.Context(), server.addr(), proxy.WithPort(number))
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("start on a port that is taken: %v, %v", taken, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	isReset(t, c)
	second := start(t, server.addr(), proxy.WithPort(number))
	if second.Addr() != first.Addr() {
		t.Errorf("the address was %s and is %s", first.Addr(), second.Addr())
	}
	dialled(t, second)
}

// TestConnections counts clients: neither those that have gone, however they
// went, nor the server sides that wait for Release.
func TestConnections(t *testing.T) {
	server := record(t)
	p := start(t, server.addr())
	count := func(want int, when string) {
		t.Helper()
		if got := p.Connections(); got != want {
			t.Errorf("%d connections %s, want %d", got, when, want)
		}
	}
	count(0, "at first")
	c := dialled(t, p)
	dialled(t, p)
	count(2, "after two were dialled")
	c.Close()
	eventually(t, "the closed one is gone", func() bool { return p.Connections() == 1 })
	set(t, p, proxy.Stall)
	dial(t, p)
	eventually(t, "one that the server does not see counts", func() bool { return p.Connections() == 2 })
	set(t, p, proxy.Pass)
	p.Cut()
	count(0, "after a cut")
	dialled(t, p)
	set(t, p, proxy.Late)
	p.LateCut()
	count(0, "after a late cut")
	released(t, p, 0)
}
