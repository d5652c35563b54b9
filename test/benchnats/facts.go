//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/crbridge/crbridge/test/controlplane"
)

// fact is a question that is put to a running server: what it returns is what
// the server did.
type fact struct {
	question string
	ask      func(context.Context, *flow) (string, error)

	plainStream bool // a stream that does not take atomic batches
	slow        bool // not asked in a quick run
	leader      bool // kills the leader of a cluster
}

var facts = []fact{
	{question: "8 messages pipelined, the fence in each", ask: factPipelined},
	{question: "8 messages pipelined, the fence in the first only", ask: factPipelinedFirst},
	{question: "single message, stale fence", ask: factStaleSingle},
	{question: "single message, fence expects 5 and the control message is gone", ask: factControlGone},
	{question: "single duplicate of a stored Nats-Msg-Id, good fence", ask: factDuplicateSingle},
	{question: "single duplicate of a stored Nats-Msg-Id, stale fence", ask: factDuplicateStale},
	{question: "atomic batch of one", ask: factBatchOfOne},
	{question: "atomic batch, fence in every message", ask: factFenceInAll},
	{question: "atomic batch, same subject twice, different ids", ask: factSameSubject},
	{question: "atomic batch, first message is on the control subject and has the fence", ask: factControlFirst},
	{question: "atomic batch, fence in the first, last message is on the control subject", ask: factControlLast},
	{question: "atomic batch, its 3rd message is on the control subject, whose fence the 4th has", ask: factFenceAfterWrite},
	{question: "atomic batch, one Nats-Msg-Id is already stored", ask: factDuplicateStored},
	{question: "atomic batch of one, its Nats-Msg-Id is already stored", ask: factDuplicateOne},
	{question: "atomic batch, the same Nats-Msg-Id twice", ask: factDuplicateWithin},
	{question: "atomic batch, stale fence", ask: factStaleBatch},
	{question: "atomic batch of one, stale fence", ask: factStaleOne},
	{question: "atomic batch of 1000 and of 1001", ask: factTooLarge},
	{question: "atomic batches open at once", ask: factOpen},
	{question: "atomic batches open at once, on 25 streams", ask: factOpenServer, slow: true},
	{question: "atomic batch with a gap in its sequence", ask: factGap},
	{question: "headers as stored", ask: factHeaders},
	{question: "Nats-Rollup: sub with the fence, stream does not allow it", ask: factRollupNotAllowed},
	{question: "Nats-Rollup: sub on the control subject with the fence, single message", ask: factRollupSingle},
	{question: "Nats-Rollup: sub on the control subject, stale fence", ask: factRollupStale},
	{question: "Nats-Rollup: sub on the control subject in the first message of an atomic batch, with the fence", ask: factRollupFirst},
	{question: "Nats-Rollup: sub on the control subject in the last message of an atomic batch, fence in the first", ask: factRollupLast},
	{question: "Nats-Rollup: sub on a subject that an earlier message of the atomic batch has", ask: factRollupTwice},
	{question: "atomic batch, stream does not allow it", ask: factNotAllowed, plainStream: true},
	{question: "atomic batch, nothing sent for 10.5 s after its first message", ask: factAbandoned, slow: true},
	{question: "two atomic batches of one flow, the second sent before the first is answered", ask: factTwoBatches},
	{question: "an atomic batch and a single message of one flow, the second sent before the first is answered", ask: factBatchThenSingle},
	{question: "atomic batch, the stream's leader is killed after its first message", ask: factLeaderKilled, leader: true},
}

// asked is who is asked.
type asked struct {
	url      string
	replicas int
	cluster  *controlplane.NATSCluster // nil with one replica
}

// askAll prints the answers. At the end a node of a cluster may be down.
func askAll(ctx context.Context, w io.Writer, who asked, slow bool) error {
	for _, f := range facts {
		if f.slow && !slow || f.leader && who.cluster == nil {
			continue
		}
		answer, err := askOne(ctx, who, f)
		if err != nil {
			return fmt.Errorf("%s: %w", f.question, err)
		}
		fmt.Fprintf(w, "R%d  %s: %s\n", who.replicas, f.question, answer)
	}
	return nil
}

func askOne(ctx context.Context, who asked, q fact) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, js, err := connect(who.url)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stream, err := newStream(ctx, js, who.replicas, !q.plainStream)
	if err != nil {
		return "", err
	}
	f, err := newFlow(ctx, js, stream, "r", 64)
	if err != nil {
		return "", err
	}
	f.cluster = who.cluster
	answer, err := q.ask(ctx, f)
	if err != nil {
		return "", err
	}
	return answer, js.DeleteStream(ctx, f.streamName())
}

// outcome puts the server's answer into words.
func outcome(err error) string {
	var apiErr *jetstream.APIError
	switch {
	case err == nil:
		return "accepted"
	case errors.As(err, &apiErr):
		return fmt.Sprintf("refused, %d %q", apiErr.ErrorCode, apiErr.Description)
	default:
		return fmt.Sprintf("error %q", err)
	}
}

// events counts the stored messages that are not on the control subject.
func (f *flow) events(ctx context.Context) (uint64, error) {
	info, err := f.stream.Info(ctx, jetstream.WithSubjectFilter(eventPrefix+">"))
	if err != nil {
		return 0, err
	}
	n := uint64(0)
	for _, count := range info.State.Subjects {
		n += count
	}
	return n, nil
}

// batch publishes an atomic batch and says what became of it, of how many
// stored events, and which message was answered with the refusal.
func (f *flow) batch(ctx context.Context, msgs []*nats.Msg, ackFirst bool) (string, error) {
	before, err := f.events(ctx)
	if err != nil {
		return "", err
	}
	publisher, err := jetstreamext.NewBatchPublisher(f.js, jetstreamext.BatchFlowControl{AckFirst: ackFirst, AckTimeout: 5 * time.Second})
	if err != nil {
		return "", err
	}
	answer := ""
	for i, msg := range msgs {
		if i < len(msgs)-1 {
			if err := publisher.AddMsg(msg); err != nil {
				answer = fmt.Sprintf("%s at message %d", outcome(err), i+1)
				break
			}
			continue
		}
		_, err := publisher.CommitMsg(ctx, msg)
		answer = outcome(err) + " at the commit"
	}
	events := 0
	for _, msg := range msgs {
		if strings.HasPrefix(msg.Subject, eventPrefix) {
			events++
		}
	}
	after, err := f.events(ctx)
	return fmt.Sprintf("%s, %d of %d events stored", answer, after-before, events), err
}

// bothBatches publishes two batches, with AckFirst and without.
func (f *flow) bothBatches(ctx context.Context, newMsgs func() []*nats.Msg) (string, error) {
	acked, err := f.batch(ctx, newMsgs(), true)
	if err != nil {
		return "", err
	}
	free, err := f.batch(ctx, newMsgs(), false)
	if acked == free {
		return acked + " (with and without AckFirst)", err
	}
	return "with AckFirst " + acked + "; without " + free, err
}

func factPipelined(ctx context.Context, f *flow) (string, error) {
	return perMessage(f.pipelined(ctx, f.next(8))), nil
}

func factPipelinedFirst(ctx context.Context, f *flow) (string, error) {
	msgs := f.next(8)
	first, err := f.js.PublishMsgAsync(f.fenced(msgs[0]), jetstream.WithRetryAttempts(0))
	if err != nil {
		return "", err
	}
	acks := []jetstream.PubAckFuture{first}
	for _, msg := range msgs[1:] {
		ack, err := f.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
		if err != nil {
			return "", err
		}
		acks = append(acks, ack)
	}
	results := make([]error, 0, len(acks))
	for _, ack := range acks {
		select {
		case <-ack.Ok():
			results = append(results, nil)
		case err := <-ack.Err():
			results = append(results, err)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return perMessage(results) + " (with a stale fence only the first would be refused)", nil
}

// perMessage groups messages by what became of them.
func perMessage(results []error) string {
	var order []string
	by := map[string][]string{}
	for i, err := range results {
		what := outcome(err)
		if by[what] == nil {
			order = append(order, what)
		}
		by[what] = append(by[what], strconv.Itoa(i+1))
	}
	parts := make([]string, 0, len(order))
	for _, what := range order {
		parts = append(parts, "messages "+strings.Join(by[what], ",")+" "+what)
	}
	return strings.Join(parts, "; ")
}

func (f *flow) single(ctx context.Context, msg *nats.Msg) string {
	ack, err := f.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
	if err == nil && ack.Duplicate {
		return fmt.Sprintf("accepted as duplicate of %d", ack.Sequence)
	}
	return outcome(err)
}

// lose lets another writer move the fence.
func (f *flow) lose(ctx context.Context) error {
	_, err := f.js.PublishMsg(ctx, &nats.Msg{Subject: f.control()})
	return err
}

func factStaleSingle(ctx context.Context, f *flow) (string, error) {
	if err := f.lose(ctx); err != nil {
		return "", err
	}
	return f.single(ctx, f.fenced(f.next(1)[0])), nil
}

func factControlGone(ctx context.Context, f *flow) (string, error) {
	if err := f.stream.DeleteMsg(ctx, f.fence); err != nil {
		return "", err
	}
	f.fence = 5
	single := f.single(ctx, f.fenced(f.next(1)[0]))
	f.fence = 0
	return single + "; expecting 0: " + f.single(ctx, f.fenced(f.next(1)[0])), nil
}

func (f *flow) stored(ctx context.Context) (*nats.Msg, error) {
	msg := f.next(1)[0]
	_, err := f.js.PublishMsg(ctx, msg)
	return &nats.Msg{Subject: msg.Subject, Data: msg.Data, Header: nats.Header{jetstream.MsgIDHeader: {msg.Header.Get(jetstream.MsgIDHeader)}}}, err
}

func factDuplicateSingle(ctx context.Context, f *flow) (string, error) {
	msg, err := f.stored(ctx)
	if err != nil {
		return "", err
	}
	return f.single(ctx, f.fenced(msg)), nil
}

func factDuplicateStale(ctx context.Context, f *flow) (string, error) {
	msg, err := f.stored(ctx)
	if err == nil {
		err = f.lose(ctx)
	}
	if err != nil {
		return "", err
	}
	return f.single(ctx, f.fenced(msg)), nil
}

func factBatchOfOne(ctx context.Context, f *flow) (string, error) {
	return f.bothBatches(ctx, func() []*nats.Msg { return f.fencedFirst(1) })
}

func (f *flow) fencedFirst(n int) []*nats.Msg {
	msgs := f.next(n)
	f.fenced(msgs[0])
	return msgs
}

func factFenceInAll(ctx context.Context, f *flow) (string, error) {
	return f.bothBatches(ctx, func() []*nats.Msg {
		msgs := f.next(4)
		for _, msg := range msgs {
			f.fenced(msg)
		}
		return msgs
	})
}

func factSameSubject(ctx context.Context, f *flow) (string, error) {
	return f.bothBatches(ctx, func() []*nats.Msg {
		msgs := f.fencedFirst(4)
		msgs[3].Subject = msgs[1].Subject
		return msgs
	})
}

func factControlFirst(ctx context.Context, f *flow) (string, error) {
	return f.batch(ctx, append([]*nats.Msg{f.fenced(&nats.Msg{Subject: f.control(), Header: nats.Header{}})}, f.next(3)...), false)
}

func factControlLast(ctx context.Context, f *flow) (string, error) {
	return f.batch(ctx, append(f.fencedFirst(3), &nats.Msg{Subject: f.control()}), false)
}

func factFenceAfterWrite(ctx context.Context, f *flow) (string, error) {
	msgs := f.fencedFirst(4)
	msgs[2].Subject = f.control()
	f.fenced(msgs[3])
	return f.batch(ctx, msgs, false)
}

func factDuplicateStored(ctx context.Context, f *flow) (string, error) {
	duplicate, err := f.stored(ctx)
	if err != nil {
		return "", err
	}
	return f.bothBatches(ctx, func() []*nats.Msg {
		return slices.Insert(f.fencedFirst(3), 2, duplicate)
	})
}

func factDuplicateOne(ctx context.Context, f *flow) (string, error) {
	duplicate, err := f.stored(ctx)
	if err != nil {
		return "", err
	}
	return f.batch(ctx, []*nats.Msg{f.fenced(duplicate)}, false)
}

func factDuplicateWithin(ctx context.Context, f *flow) (string, error) {
	return f.bothBatches(ctx, func() []*nats.Msg {
		msgs := f.fencedFirst(4)
		msgs[3].Header.Set(jetstream.MsgIDHeader, msgs[1].Header.Get(jetstream.MsgIDHeader))
		return msgs
	})
}

func factStaleBatch(ctx context.Context, f *flow) (string, error) {
	if err := f.lose(ctx); err != nil {
		return "", err
	}
	return f.bothBatches(ctx, func() []*nats.Msg { return f.fencedFirst(4) })
}

func factStaleOne(ctx context.Context, f *flow) (string, error) {
	if err := f.lose(ctx); err != nil {
		return "", err
	}
	return f.batch(ctx, f.fencedFirst(1), false)
}

func factTooLarge(ctx context.Context, f *flow) (string, error) {
	largest, err := f.bothBatches(ctx, func() []*nats.Msg { return f.fencedFirst(1000) })
	if err != nil {
		return "", err
	}
	above, err := f.bothBatches(ctx, func() []*nats.Msg { return f.fencedFirst(1001) })
	if err != nil {
		return "", err
	}
	far, err := f.batch(ctx, f.fencedFirst(1500), false)
	return "1000: " + largest + "; 1001: " + above + "; 1500: " + far, err
}

// open begins a batch and leaves it.
func (f *flow) open() (jetstreamext.BatchPublisher, error) {
	publisher, err := jetstreamext.NewBatchPublisher(f.js, jetstreamext.BatchFlowControl{AckFirst: true, AckTimeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	return publisher, publisher.AddMsg(f.fencedFirst(1)[0])
}

func factOpen(ctx context.Context, f *flow) (string, error) {
	var first jetstreamext.BatchPublisher
	for n := range 2000 {
		publisher, err := f.open()
		if n == 0 {
			first = publisher
		}
		if err == nil {
			continue
		}
		answer := fmt.Sprintf("%d, the next is %s at its first message", n, outcome(err))
		unasked, err := f.batch(ctx, f.fencedFirst(3), false)
		if err != nil {
			return "", err
		}
		answer += "; without AckFirst " + unasked + "; single messages meanwhile " + f.single(ctx, f.fenced(f.next(1)[0]))
		_, err = first.CommitMsg(ctx, f.next(1)[0])
		answer += "; the commit of an open one " + outcome(err)
		_, err = f.open()
		return answer + ", and then a new one " + outcome(err), nil
	}
	return "2000 and more", nil
}

// raw sends a message of a batch with a sequence of the caller's choice.
func (f *flow) raw(ctx context.Context, id string, sequence int, commit bool) (string, error) {
	msg := f.next(1)[0]
	msg.Header.Set(jetstreamext.BatchIDHeader, id)
	msg.Header.Set(jetstreamext.BatchSeqHeader, strconv.Itoa(sequence))
	if commit {
		msg.Header.Set(jetstreamext.BatchCommitHeader, "1")
	}
	reply, err := f.js.Conn().RequestMsgWithContext(ctx, msg)
	if err != nil {
		return "", err
	}
	if len(reply.Data) == 0 {
		return "empty answer", nil
	}
	return string(reply.Data), nil
}

func factGap(ctx context.Context, f *flow) (string, error) {
	if _, err := f.raw(ctx, "gap", 1, false); err != nil {
		return "", err
	}
	gap, err := f.raw(ctx, "gap", 3, false)
	if err != nil {
		return "", err
	}
	commit, err := f.raw(ctx, "gap", 4, true)
	return "the message after the gap: " + gap + "; the commit: " + commit, err
}

func factHeaders(ctx context.Context, f *flow) (string, error) {
	if err := f.publish(ctx, singles, f.next(1)); err != nil {
		return "", err
	}
	if err := f.publish(ctx, atomic, f.next(2)); err != nil {
		return "", err
	}
	// A direct get would add headers of its own.
	config := f.stream.CachedInfo().Config
	config.AllowDirect = false
	stream, err := f.js.UpdateStream(ctx, config)
	if err != nil {
		return "", err
	}
	parts := make([]string, 0, 3)
	for i, what := range []string{"single", "first of a batch", "last of a batch"} {
		msg, err := stream.GetMsg(ctx, f.fence+1+uint64(i))
		if err != nil {
			return "", err
		}
		names := make([]string, 0, len(msg.Header))
		for name := range msg.Header {
			names = append(names, name)
		}
		slices.Sort(names)
		parts = append(parts, what+": "+strings.Join(names, " "))
	}
	return strings.Join(parts, "; "), nil
}

func factNotAllowed(ctx context.Context, f *flow) (string, error) {
	several, err := f.bothBatches(ctx, func() []*nats.Msg { return f.fencedFirst(4) })
	if err != nil {
		return "", err
	}
	one, err := f.batch(ctx, f.fencedFirst(1), false)
	return several + "; batch of one: " + one, err
}

func factAbandoned(ctx context.Context, f *flow) (string, error) {
	publisher, err := f.open()
	if err != nil {
		return "", err
	}
	select {
	case <-time.After(10500 * time.Millisecond):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	_, err = publisher.CommitMsg(ctx, f.next(1)[0])
	stored, countErr := f.events(ctx)
	return fmt.Sprintf("%s at the commit, %d stored", outcome(err), stored), countErr
}

// send sends an atomic batch, and leaves its answer to be awaited.
func (f *flow) send(id string, msgs []*nats.Msg, answers *nats.Subscription) error {
	for i, msg := range msgs {
		msg.Header.Set(jetstreamext.BatchIDHeader, id)
		msg.Header.Set(jetstreamext.BatchSeqHeader, strconv.Itoa(i+1))
		if i == len(msgs)-1 {
			msg.Header.Set(jetstreamext.BatchCommitHeader, "1")
			msg.Reply = answers.Subject
		}
		if err := f.js.Conn().PublishMsg(msg); err != nil {
			return err
		}
	}
	return nil
}

// twice sends two things and returns the answers to both, ten times over: what
// comes of it may differ.
func (f *flow) twice(ctx context.Context, second func(i int, answers *nats.Subscription) error) (string, error) {
	results := map[string]int{}
	for i := range 10 {
		answers, err := f.js.Conn().SubscribeSync(f.js.Conn().NewInbox())
		if err != nil {
			return "", err
		}
		if err := f.send(fmt.Sprintf("a%d", i), f.fencedFirst(16), answers); err != nil {
			return "", err
		}
		if err := second(i, answers); err != nil {
			return "", err
		}
		for range 2 {
			msg, err := answers.NextMsgWithContext(ctx)
			if err != nil {
				return "", err
			}
			var answer struct {
				Error *jetstream.APIError `json:"error"`
			}
			if err := json.Unmarshal(msg.Data, &answer); err != nil {
				return "", err
			}
			err = nil
			if answer.Error != nil {
				err = answer.Error
			}
			results[outcome(err)]++
		}
		if err := answers.Unsubscribe(); err != nil {
			return "", err
		}
	}
	parts := make([]string, 0, len(results))
	for what, n := range results {
		parts = append(parts, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(parts)
	return "of 10 pairs, answers: " + strings.Join(parts, "; "), nil
}

func factTwoBatches(ctx context.Context, f *flow) (string, error) {
	return f.twice(ctx, func(i int, answers *nats.Subscription) error {
		return f.send(fmt.Sprintf("b%d", i), f.fencedFirst(16), answers)
	})
}

func factBatchThenSingle(ctx context.Context, f *flow) (string, error) {
	return f.twice(ctx, func(_ int, answers *nats.Subscription) error {
		msg := f.fencedFirst(1)[0]
		msg.Reply = answers.Subject
		return f.js.Conn().PublishMsg(msg)
	})
}

// factLeaderKilled goes on with a batch once there is another leader.
func factLeaderKilled(ctx context.Context, f *flow) (string, error) {
	publisher, err := f.open()
	if err != nil {
		return "", err
	}
	leader, err := f.cluster.StreamLeader(ctx, f.js, f.streamName())
	if err != nil {
		return "", err
	}
	leader.Kill()
	if _, err := f.cluster.StreamLeader(ctx, f.js, f.streamName()); err != nil {
		return "", err
	}
	_, err = publisher.CommitMsg(ctx, f.next(1)[0])
	stored, countErr := f.events(ctx)
	return fmt.Sprintf("%s at the commit to the next leader, %d stored; the batch again: %s",
		outcome(err), stored, outcome(f.publish(ctx, atomic, f.next(2)))), countErr
}
