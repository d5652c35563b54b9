//go:build unix

package oracle_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/oracle"
)

// tapped is a stream with a tap on it.
type tapped struct {
	t      *testing.T
	server *controlplane.NATSServer
	js     jetstream.JetStream
	tap    *oracle.Tap
	config jetstream.StreamConfig
	want   []string // generation, sequence and payload
	// where the next message goes
	generation, sequence int
}

func newTapped(t *testing.T, opts oracle.TapOptions) *tapped {
	t.Helper()
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	tap, err := oracle.Listen(t.Context(), server.URL(), "K8S", opts)
	must(t, err)
	t.Cleanup(tap.Close)
	conn, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	must(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	must(t, err)
	return &tapped{t: t, server: server, js: js, tap: tap, config: jetstream.StreamConfig{Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}}}
}

func (s *tapped) create() {
	s.t.Helper()
	_, err := s.js.CreateStream(within(s.t), s.config)
	must(s.t, err)
}

func (s *tapped) stream() jetstream.Stream {
	s.t.Helper()
	stream, err := s.js.Stream(within(s.t), "K8S")
	must(s.t, err)
	return stream
}

// publish stores messages, and retries until each is: a server that was just
// started may not answer the first.
func (s *tapped) publish(subject string, count int) {
	s.t.Helper()
	ctx := within(s.t)
	for range count {
		s.sequence++
		payload := fmt.Sprintf("%d/%d", s.generation, s.sequence)
		for {
			_, err := s.js.Publish(ctx, subject, []byte(payload), jetstream.WithMsgID(payload))
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				s.t.Fatal(err)
			}
		}
		s.want = append(s.want, fmt.Sprintf("%d %d %s %s", s.generation, s.sequence, subject, payload))
	}
}

// recorded wants the tap to have recorded exactly what was published, and these
// gaps.
func (s *tapped) recorded(gaps ...oracle.Gap) oracle.Recording {
	s.t.Helper()
	must(s.t, s.tap.Sync(within(s.t)))
	recording := s.tap.Recording()
	var got []string
	for _, m := range recording.Messages {
		if age := time.Since(m.Time); age < 0 || age > time.Hour {
			s.t.Errorf("message %d is %v old", m.Sequence, age)
		}
		got = append(got, fmt.Sprintf("%d %d %s %s", m.Generation, m.Sequence, m.Subject, m.Data))
	}
	if diff := cmp.Diff(s.want, got); diff != "" {
		s.t.Errorf("messages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(gaps, recording.Gaps); diff != "" {
		s.t.Errorf("gaps (-want +got):\n%s", diff)
	}
	return recording
}

// TestTap records a stream through everything that may happen to it.
func TestTap(t *testing.T) {
	s := newTapped(t, oracle.TapOptions{})
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.tap.Sync(short); err == nil {
		t.Error("a Sync without a stream succeeds")
	}
	s.create()
	s.recorded()
	s.publish("k8s.a", 20)
	s.publish("crbridge.K8S.x", 1)
	s.recorded()

	must(t, s.server.Restart(t.Context()))
	s.publish("k8s.a", 20)
	s.server.Kill()
	must(t, s.server.Start(t.Context()))
	s.publish("k8s.a", 20)
	s.recorded()
	must(t, s.server.Pause(t.Context()))
	must(t, s.server.Resume(t.Context()))
	s.publish("k8s.a", 20)
	s.recorded()

	// What is purged after the tap has seen it is no gap.
	must(t, s.stream().Purge(within(t)))
	s.recorded()
	s.publish("k8s.a", 5)
	s.recorded()

	// A stream made anew, soon longer than the first was.
	must(t, s.js.DeleteStream(within(t), "K8S"))
	s.generation, s.sequence = 1, 0
	s.create()
	s.publish("k8s.a", 200)
	recording := s.recorded()
	if len(recording.Generations) != 2 || recording.Generations[0].Reason != "first" || recording.Generations[1].Reason != "recreated" {
		t.Errorf("generations: %+v", recording.Generations)
	}
	if !recording.Generations[0].Created.Before(recording.Generations[1].Created) {
		t.Errorf("generations: %+v", recording.Generations)
	}

	s.tap.Close()
	if err := s.tap.Sync(within(t)); err == nil {
		t.Error("a Sync after Close succeeds")
	}
	for c := range s.stream().ListConsumers(within(t)).Info() {
		t.Errorf("consumer %s is left behind", c.Name)
	}
}

// TestTapTooLate says what the tap could not see, whether it vanished at the
// beginning, in the middle or at the end.
func TestTapTooLate(t *testing.T) {
	s := newTapped(t, oracle.TapOptions{})
	s.create()
	s.publish("k8s.a", 2)
	s.recorded()
	s.tap.Close() // the next tap comes later
	stream := s.stream()
	s.publish("k8s.a", 8)
	must(t, stream.DeleteMsg(within(t), 1))
	must(t, stream.DeleteMsg(within(t), 5))
	must(t, stream.DeleteMsg(within(t), 6))
	must(t, stream.DeleteMsg(within(t), 10))
	all := s.want
	s.want = append(append(append([]string{}, all[1:4]...), all[6:8]...), all[8])
	var err error
	s.tap, err = oracle.Listen(t.Context(), s.server.URL(), "K8S", oracle.TapOptions{})
	must(t, err)
	defer s.tap.Close()
	gap := func(from, to uint64) oracle.Gap { return oracle.Gap{From: from, To: to} }
	s.recorded(gap(1, 1), gap(5, 6), gap(10, 10))
	s.tap.Purged(5)
	s.recorded(gap(6, 6), gap(10, 10))
	s.publish("k8s.a", 1)
	recording := s.recorded(gap(6, 6), gap(10, 10))
	violations := oracle.Check(oracle.Past{}, recording, oracle.Expectations{})
	if report := oracle.Report(violations); !strings.Contains(report, "2 violations of incomplete:") {
		t.Errorf("an incomplete recording is judged: %s", report)
	}

	// Nobody sees what is purged while nobody can read.
	must(t, stream.Purge(within(t)))
	s.tap.Purged(11)
	s.recorded()
}

// TestTapRewound notices a stream that was put back to an earlier state, which
// has the same creation time and gives out the same sequences again.
func TestTapRewound(t *testing.T) {
	s := newTapped(t, oracle.TapOptions{KeepData: 3})
	s.create()
	s.publish("k8s.a", 3)
	s.recorded()
	must(t, s.server.Stop(t.Context()))
	backup := t.TempDir() + "/store"
	copyDir(t, s.server.StoreDir(), backup)
	must(t, s.server.Start(t.Context()))
	s.publish("k8s.a", 4)
	s.recorded()
	must(t, s.server.Stop(t.Context()))
	copyDir(t, backup, s.server.StoreDir())
	must(t, s.server.Start(t.Context()))
	s.generation = 1
	s.want = append(s.want, "1 1 k8s.a 0/1", "1 2 k8s.a 0/2", "1 3 k8s.a 0/3")
	s.sequence = 3
	recording := s.recorded()
	if len(recording.Generations) != 2 || recording.Generations[1].Reason != "rewound" {
		t.Errorf("generations: %+v", recording.Generations)
	}
	s.publish("k8s.larger", 7)
	must(t, s.tap.Sync(within(t)))
	if messages := s.tap.Recording().Messages; messages[len(messages)-1].Data != nil {
		t.Errorf("a payload of 4 bytes is kept: %q", messages[len(messages)-1].Data)
	}
}

// copyDir makes to what from is.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.RemoveAll(to))
	must(t, os.CopyFS(to, os.DirFS(from)))
}
