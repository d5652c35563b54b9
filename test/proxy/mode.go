package proxy

import "time"

// Mode says what a proxy does with bytes and new connections. Modes are
// comparable; the zero value is Pass.
type Mode struct {
	kind  kind
	delay time.Duration
}

type kind int

const (
	pass kind = iota
	delay
	stall
	halfOpen
	halfOpenUp
	refuse
	late
)

var (
	// Pass forwards everything, and delivers what another mode held.
	Pass = Mode{kind: pass}

	// Stall forwards nothing in either direction, and keeps connections open.
	// New ones are accepted, but the server does not see them before the next
	// mode.
	Stall = Mode{kind: stall}

	// HalfOpen forwards from client to server and holds what the server
	// answers: what is sent lands, its acks do not.
	HalfOpen = Mode{kind: halfOpen}

	// HalfOpenUp is HalfOpen the other way round: it holds what clients send and
	// forwards what servers do. Unlike with Late, new connections are held too.
	HalfOpenUp = Mode{kind: halfOpenUp}

	// Refuse resets the connections and closes the port until the next mode.
	Refuse = Mode{kind: refuse}

	// Late holds what the clients of the existing connections send from now on;
	// what the server sends, and new connections, pass. See LateCut and Release.
	Late = Mode{kind: late}
)

// Delay delivers each chunk that much after the proxy read it, in both
// directions. As memory is bounded, a connection carries at most its buffer
// (WithBuffer) per direction and delay.
func Delay(d time.Duration) Mode { return Mode{kind: delay, delay: d} }

// String returns the mode for a log line.
func (m Mode) String() string {
	switch m.kind {
	case pass:
		return "pass"
	case delay:
		return "delay " + m.delay.String()
	case stall:
		return "stall"
	case halfOpen:
		return "half-open"
	case halfOpenUp:
		return "half-open up"
	case refuse:
		return "refuse"
	case late:
		return "late"
	}
	return "unknown"
}

// gate says when a pipe may deliver what it has read.
type gate struct {
	hold    bool
	discard bool // read and throw away
	delay   time.Duration
}

// gates returns the mode's gates from client to server and back. Late concerns
// existing connections only.
func (m Mode) gates(existing bool) (up, down gate) {
	up = gate{delay: m.delay, hold: m.kind == stall || m.kind == halfOpenUp || m.kind == late && existing}
	down = gate{delay: m.delay, hold: m.kind == stall || m.kind == halfOpen}
	return up, down
}
