//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/crbridge/crbridge/test/controlplane"
)

const (
	eventPrefix   = "k8s.demo."
	controlPrefix = "crbridge."
	ackTimeout    = 30 * time.Second

	// fenceInUse is the server's "wrong last sequence" without a sequence: a
	// message that has the fence, or is on its subject, is being processed.
	fenceInUse jetstream.ErrorCode = 10164
)

// flow is what one flow of the bridge has of a stream: subjects of its own for
// its events, and a control subject with one message, its fence.
type flow struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	name    string
	payload []byte
	fence   uint64 // sequence of the message on the control subject
	sent    int
	refused int // how often something was sent again because the fence was in use

	cluster *controlplane.NATSCluster // for facts; nil where there is none
}

// newFlow claims the control subject, which must have no message yet.
func newFlow(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, name string, size int) (*flow, error) {
	f := &flow{js: js, stream: stream, name: name, payload: []byte(strings.Repeat("x", size))}
	ack, err := js.PublishMsg(ctx, &nats.Msg{Subject: f.control()}, jetstream.WithExpectLastSequencePerSubject(0))
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", f.control(), err)
	}
	f.fence = ack.Sequence
	return f, nil
}

func (f *flow) control() string { return controlPrefix + "K8S.demo.route.g." + f.name }

func (f *flow) streamName() string { return f.stream.CachedInfo().Config.Name }

// next makes the next n events, each with a subject and an id of its own.
func (f *flow) next(n int) []*nats.Msg {
	msgs := make([]*nats.Msg, n)
	for i := range msgs {
		f.sent++
		number := strconv.Itoa(f.sent)
		msgs[i] = &nats.Msg{
			Subject: eventPrefix + "g." + f.name + ".ns.name-" + number,
			Header:  nats.Header{jetstream.MsgIDHeader: {f.name + "/" + number}},
			Data:    f.payload,
		}
	}
	return msgs
}

func (f *flow) fenced(msg *nats.Msg) *nats.Msg {
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(f.fence, 10))
	msg.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, f.control())
	return msg
}

// way is how a batch of events is published.
type way int

const (
	singles     way = iota // one message after the other, the fence in each
	pipelined              // all messages at once, the fence in each
	atomic                 // one atomic batch, the fence in its first message
	atomicAcked            // the same, having waited for an answer to the first message
)

var wayNames = map[way]string{singles: "one by one", pipelined: "pipelined", atomic: "atomic", atomicAcked: "atomic, AckFirst"}

func (w way) String() string { return wayNames[w] }

func (f *flow) publish(ctx context.Context, w way, msgs []*nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	switch w {
	case singles:
		for _, msg := range msgs {
			err := f.again(func() error {
				_, err := f.js.PublishMsg(ctx, f.fenced(msg), jetstream.WithRetryAttempts(0))
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	case pipelined:
		return errors.Join(f.pipelined(ctx, msgs)...)
	default:
		f.fenced(msgs[0])
		control := jetstreamext.BatchFlowControl{AckFirst: w == atomicAcked, AckTimeout: ackTimeout}
		return f.again(func() error {
			_, err := jetstreamext.PublishMsgBatch(ctx, f.js, msgs, control)
			return err
		})
	}
}

// again publishes again while the server says that the fence is in use. With
// replicas it may say so of what was sent after an acknowledgement, which it
// sends shortly before it takes its mark off the fence. Nothing is stored then.
func (f *flow) again(publish func() error) error {
	for attempt := 0; ; attempt++ {
		err := publish()
		if apiErr, ok := errors.AsType[*jetstream.APIError](err); !ok || apiErr.ErrorCode != fenceInUse || attempt == 10 {
			return err
		}
		f.refused++
	}
}

// pipelined returns what became of each message.
func (f *flow) pipelined(ctx context.Context, msgs []*nats.Msg) []error {
	acks := make([]jetstream.PubAckFuture, len(msgs))
	results := make([]error, len(msgs))
	for i, msg := range msgs {
		acks[i], results[i] = f.js.PublishMsgAsync(f.fenced(msg), jetstream.WithRetryAttempts(0))
	}
	for i, ack := range acks {
		if results[i] != nil {
			continue
		}
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			results[i] = err
		case <-ctx.Done():
			results[i] = ctx.Err()
		}
	}
	return results
}

// connect connects as the bridge does.
func connect(url string) (*nats.Conn, jetstream.JetStream, error) {
	conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(conn,
		jetstream.WithPublishAsyncTimeout(ackTimeout),
		jetstream.WithPublishAsyncMaxPending(100_000),
		jetstream.WithDefaultTimeout(ackTimeout))
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, js, nil
}

// newStream creates a stream on files, as the bridge wants it. Each has a name
// of its own: the server removes a deleted stream's files in the background, and
// a stream that has the name of one that was deleted twice in short order may
// begin with the messages of the old one.
func newStream(ctx context.Context, js jetstream.JetStream, replicas int, atomicBatches bool) (jetstream.Stream, error) {
	return js.CreateStream(ctx, jetstream.StreamConfig{
		Name:               "K8S-" + rand.Text(),
		Subjects:           []string{eventPrefix + ">", controlPrefix + "K8S.>"},
		Storage:            jetstream.FileStorage,
		Replicas:           replicas,
		AllowAtomicPublish: atomicBatches,
		AllowDirect:        true,
	})
}

// keepStream creates a stream that stays: when an account's last stream is
// deleted the server removes the directory of all, and one that is created at
// that moment fails.
func keepStream(ctx context.Context, url string, replicas int) error {
	conn, js, err := connect(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "KEEP", Subjects: []string{"keep"}, Replicas: replicas})
	return err
}
