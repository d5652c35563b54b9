package oracle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// controlPrefix begins the subjects of the bridge's own messages.
const controlPrefix = "crbridge."

// Message is a message of the stream.
type Message struct {
	Generation int // of the stream: an index of Recording.Generations
	Sequence   uint64
	Subject    string
	Header     nats.Header
	Data       []byte // nil if the tap was told not to keep as much
	Time       time.Time

	Event   *Event // nil for a control message, and where there is a problem
	Problem error  // why it is no event
}

// NewMessage reads a message. A control message, which is one below crbridge.,
// has no event.
func NewMessage(generation int, sequence uint64, subject string, header nats.Header, data []byte) Message {
	m := Message{Generation: generation, Sequence: sequence, Subject: subject, Header: header, Data: data}
	if !m.control() {
		m.Event, m.Problem = DecodeEvent(header, data)
	}
	return m
}

func (m *Message) control() bool { return strings.HasPrefix(m.Subject, controlPrefix) }

// what names the message in a sentence.
func (m *Message) what() string {
	at := fmt.Sprintf("message %d", m.Sequence)
	if m.Generation > 0 {
		at += fmt.Sprintf(" of generation %d", m.Generation)
	}
	if m.Event == nil {
		return at
	}
	return fmt.Sprintf("%s (%s at %s)", at, m.Event.Kind, m.Event.Attributes["resourceversion"])
}

// Generation is a life of the stream, between two hands that made it begin
// anew. The promises about ids and order hold within one.
type Generation struct {
	Created time.Time // the stream's
	Reason  string    // why it begins: first, recreated or rewound

	// Purged are the sequences up to which all messages were deleted, one after
	// the other.
	Purged []uint64
}

// Gap is a range of sequences, both ends included, that are not recorded.
type Gap struct {
	Generation int
	From, To   uint64
}

func (g Gap) String() string {
	return fmt.Sprintf("messages %d to %d of generation %d", g.From, g.To, g.Generation)
}

// Recording is all that a tap has seen, in the stream's order.
type Recording struct {
	Generations []Generation
	Messages    []Message

	// Gaps are sequences that the stream gave to messages which were gone
	// before the tap could read them, other than by a purge that it was told
	// of. What was in them nobody knows. Where the bridge has replaced a control
	// message at once, that is a gap too; Check knows such by who names them.
	Gaps []Gap
}

// tapped is a generation while it is recorded.
type tapped struct {
	Generation
	seen     uint64    // the last sequence that is recorded
	seenTime time.Time // of that message
	tail     uint64    // up to where it is known that there was nothing to see
}

// gaps are the ranges that no message of the generation has.
func (g *tapped) gaps(generation int, messages []Message) []Gap {
	var gaps []Gap
	next := uint64(1)
	if len(g.Purged) > 0 {
		next += slices.Max(g.Purged)
	}
	add := func(until uint64) {
		if next < until {
			gaps = append(gaps, Gap{Generation: generation, From: next, To: until - 1})
		}
	}
	first, _ := slices.BinarySearchFunc(messages, generation, func(m Message, g int) int { return m.Generation - g })
	for i := first; i < len(messages) && messages[i].Generation == generation; i++ {
		add(messages[i].Sequence)
		next = max(next, messages[i].Sequence+1)
	}
	add(g.tail + 1)
	return gaps
}
