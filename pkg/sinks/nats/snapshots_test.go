package nats

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

func TestSnapshotNames(t *testing.T) {
	p := &streamPublisher{flow: orders, sink: &Sink{cluster: "demo.eu", jetstream: &JetStream{Stream: "K8S"}}}
	for _, flow := range []string{p.shelfName(), "K8S.rows.a.b", "a.b.0000000001.00000000000000000002"} {
		want := snapshotRef{Epoch: 12345678901, Sequence: 9}
		if got, ref, ok := parseRef(want.name(flow)); !ok || got != flow || ref != want {
			t.Errorf("%s is read as %s, %+v, %t", want.name(flow), got, ref, ok)
		}
	}
	for _, name := range []string{"", "a.b", "a.x.1", "a.1.x", "a.1."} {
		if flow, ref, ok := parseRef(name); ok {
			t.Errorf("%q is taken for a snapshot of %s, %+v", name, flow, ref)
		}
	}
	p.foreign = "core"
	if got, want := p.shelfName(), "K8S.demo_eu.orders.orders_shop_example_com.core"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// snapshotNames are the objects in the bucket, sorted.
func snapshotNames(t *testing.T, js jetstream.JetStream) (names []string) {
	t.Helper()
	store, err := js.ObjectStore(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := store.List(t.Context())
	if err != nil {
		return nil // it says so when there are none
	}
	for _, o := range objects {
		names = append(names, o.Name)
	}
	slices.Sort(names)
	return names
}

// twoSnapshots are of a flow that goes on after each of them, and the flow's
// rows in the end.
func twoSnapshots(t *testing.T, o Options) (rows []string) {
	t.Helper()
	_, p, l, _ := restart(t, o)
	for round := range 2 {
		e := change(t, fmt.Sprint("object", round), round+1)
		deliver(t, p, e)
		l.Restore(rowOf(&e))
		takeSnapshot(t, p, l, journal.State{Position: uint64(round + 1)})
	}
	deliver(t, p, change(t, "tail", 3))
	record(t, p, nil, journal.State{Position: 3})
	return []string{"object0 1", "object1 2", "tail 3"}
}

// A snapshot that is not what it was is told and done without.
func TestDamagedSnapshots(t *testing.T) {
	flip := func(t *testing.T, js jetstream.JetStream, store jetstream.ObjectStore, name string) {
		info, err := store.GetInfo(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		chunk := "$O." + bucket + ".C." + info.NUID
		stream, err := js.Stream(t.Context(), "OBJ_"+bucket)
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.GetLastMsgForSubject(t.Context(), chunk)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject(chunk)); err != nil {
			t.Fatal(err)
		}
		m.Data[len(m.Data)/2] ^= 1
		if _, err := js.Publish(t.Context(), chunk, m.Data); err != nil {
			t.Fatal(err)
		}
	}
	replace := func(data []byte) func(*testing.T, jetstream.JetStream, jetstream.ObjectStore, string) {
		return func(t *testing.T, _ jetstream.JetStream, store jetstream.ObjectStore, name string) {
			if _, err := store.PutBytes(t.Context(), name, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		why    string
		damage func(*testing.T, jetstream.JetStream, jetstream.ObjectStore, string)
		all    bool // of the snapshots, otherwise the newest
		purge  bool // the events that only the snapshots have
		said   string
		gap    string
	}{
		{why: "a bit is wrong", damage: flip, said: "cannot be used: "},
		{why: "it was deleted", damage: func(t *testing.T, _ jetstream.JetStream, store jetstream.ObjectStore, name string) {
			if err := store.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}, said: "cannot be used: object not found"},
		{
			why: "a newer bridge wrote it", damage: replace(append(binary.AppendUvarint([]byte("crbridge ledger\n"), 2), "?"...)),
			said: "cannot be used: it is of format 2, and this bridge reads format 1",
		},
		{why: "it ends early", damage: replace([]byte("crbridge ledger\n")), said: "cannot be used: it is damaged: its format: unexpected EOF"},
		{why: "all of them: the stream has it, too", damage: flip, all: true, said: "cannot be used: "},
		{
			why: "all of them, and the stream has not", damage: replace([]byte("something else altogether")), all: true, purge: true, said: "it is no ledger",
			gap: "it is no ledger, and stream K8S no longer has all since the one before; objects are compared",
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			o := options(t, server)
			want := twoSnapshots(t, o)
			store, err := js.ObjectStore(t.Context(), bucket)
			if err != nil {
				t.Fatal(err)
			}
			names := snapshotNames(t, js)
			if len(names) != 2 {
				t.Fatalf("there are snapshots %q", names)
			}
			for i, name := range names {
				if test.all || i == 1 {
					test.damage(t, js, store, name)
				}
			}
			if test.purge {
				purge(t, js, jetstream.WithPurgeSubject("k8s.*.*.*.*.object0"))
				purge(t, js, jetstream.WithPurgeSequence(4))
				want = want[1:]
			}
			var log settingstest.LogBook
			o.Logger = log.Logger(slog.LevelInfo)
			_, p, l, c := restart(t, o)
			if !strings.Contains(log.String(), test.said) || strings.Count(log.String(), "ledger is rebuilt from the stream") == 0 {
				t.Errorf("not said: %s\n%s", test.said, log.String())
			}
			if !strings.Contains(c.Gap, test.gap) || (c.Gap == "") != (test.gap == "") || c.State.Position != 3 {
				t.Errorf("claim: %+v, want the gap %q", c, test.gap)
			}
			if diff := cmp.Diff(want, l.versions()); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			takeSnapshot(t, p, l, journal.State{Position: 4})
			_, _, l, c = restart(t, o)
			if diff := cmp.Diff(want, l.versions()); diff != "" || c.Gap != "" || l.given != len(want) {
				t.Errorf("from the snapshot after it: %+v, rows (-want +got):\n%s", c, diff)
			}
		})
	}
}

// However many there have been, two are left, and what nothing refers to goes.
func TestOldSnapshotsGo(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	for bridge := range 3 {
		_, p, l, _ := restart(t, o)
		for round := range 3 {
			e := change(t, "object", 10*bridge+round+1)
			deliver(t, p, e)
			l.Restore(rowOf(&e))
			takeSnapshot(t, p, l, journal.State{})
			// One that is the same again takes no other's place.
			takeSnapshot(t, p, l, journal.State{})
			takeSnapshot(t, p, l, journal.State{})
		}
		c, _ := lastControl(t, js, p.subject)
		var want []string
		for _, ref := range c.Snapshots {
			want = append(want, ref.name(p.shelfName()))
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, snapshotNames(t, js)); diff != "" || len(slices.Compact(want)) != 2 {
			t.Errorf("the control message refers to %d snapshots; in the bucket (-want +got):\n%s", len(want), diff)
		}
		deliver(t, p, change(t, "other", 10*bridge+9))
		if err := p.Snapshot(t.Context(), journal.State{}, l.each()); err != nil { // and a crash
			t.Fatal(err)
		}
	}
	restart(t, o)
	if names := snapshotNames(t, js); len(names) != 2 {
		t.Errorf("in the bucket are %q", names)
	}
}

// A snapshot is of what the flow knew when it was asked for, not of what the
// stream has told it since.
func TestSnapshotIsNotAheadOfItsRows(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	_, p, l, _ := restart(t, o)
	a := change(t, "a", 1)
	deliver(t, p, a)
	l.Restore(rowOf(&a))
	record(t, p, nil, journal.State{Position: 1})
	deliver(t, p, change(t, "b", 2)) // the flow has not taken note of it
	if err := p.Snapshot(t.Context(), journal.State{Position: 1}, l.each()); err != nil {
		t.Fatal(err)
	}
	record(t, p, nil, journal.State{Position: 2})
	_, _, restored, c := restart(t, o)
	if diff := cmp.Diff([]string{"a 1", "b 2"}, restored.versions()); diff != "" || c.Gap != "" || restored.given > 2 {
		t.Errorf("claim: %+v, rows (-want +got):\n%s", c, diff)
	}
}

// A rebase between a snapshot and its record.
func TestRebaseBesideSnapshots(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	_, p, l, _ := restart(t, o)
	a := change(t, "a", 100)
	deliver(t, p, a)
	l.Restore(rowOf(&a))
	takeSnapshot(t, p, l, journal.State{Position: 100})
	record(t, p, nil, journal.State{Position: 101})
	if err := p.Snapshot(t.Context(), journal.State{Position: 101}, l.each()); err != nil {
		t.Fatal(err)
	}
	if err := p.Rebase(t.Context(), journal.State{Position: 5}); err != nil {
		t.Fatal(err)
	}
	c, _ := lastControl(t, js, p.subject)
	if len(c.Snapshots) != 2 || c.Snapshots[0] == c.Snapshots[1] {
		t.Errorf("the control message refers to %+v", c.Snapshots)
	}
	deliver(t, p, change(t, "b", 6))
	_, q, restored, claim := restart(t, o)
	if diff := cmp.Diff([]string{"a 100", "b 6"}, restored.versions()); diff != "" || restored.rebases != 1 || claim.State.Position != 5 {
		t.Errorf("%d rebases, claim: %+v, rows (-want +got):\n%s", restored.rebases, claim, diff)
	}
	// After a snapshot of the new history, nothing is of the old one.
	takeSnapshot(t, q, restored, journal.State{Position: 6})
	if _, _, restored, _ := restart(t, o); restored.rebases != 0 {
		t.Errorf("%d rebases after a snapshot of the new history", restored.rebases)
	}
}

// The bridge was killed between the two messages of a rebase.
func TestHalfARebase(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	_, p, _, _ := restart(t, o)
	deliver(t, p, change(t, "a", 100))
	record(t, p, nil, journal.State{Position: 100})
	c, _ := lastControl(t, js, p.subject)
	c.Rebase, c.State.Position = true, 5
	put(t, js, p.subject, c)
	for range 2 {
		if _, _, l, c := restart(t, o); l.rebases != 1 || c.State.Position != 5 {
			t.Errorf("%d rebases, claim: %+v", l.rebases, c)
		}
	}
}

// Without the right to a bucket the way back is long, and that is all.
func TestNoBucket(t *testing.T) {
	server := natstest.Start(t, fmt.Sprintf(permissions, `"$JS.API.STREAM.CREATE.OBJ_crbridge", "$JS.API.STREAM.INFO.OBJ_crbridge"`, ""))
	o := options(t, server)
	asBridge(t, &o)
	s, p, l, _ := restart(t, o)
	deliver(t, p, change(t, "a", 1))
	record(t, p, nil, journal.State{Position: 1})
	if err := p.Snapshot(t.Context(), journal.State{}, l.each()); err == nil || !strings.Contains(err.Error(), "does not permit") {
		t.Errorf("Snapshot says %v", err)
	}
	notes := s.Status().Notes
	if len(notes) != 1 || !strings.Contains(notes[0], "ledgers have no snapshots") {
		t.Errorf("notes: %q", notes)
	}
	_, _, l, c := restart(t, o)
	if diff := cmp.Diff([]string{"a 1"}, l.versions()); diff != "" || c.Gap != "" || c.State.Position != 1 {
		t.Errorf("claim: %+v, rows (-want +got):\n%s", c, diff)
	}
}

// A snapshot that takes long does not hold up anything else, and one whose
// claim is void by its end does not count.
func TestSnapshotBesideOthers(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	_, p, l, _ := restart(t, o)
	a := change(t, "a", 1)
	deliver(t, p, a)
	l.Restore(rowOf(&a))
	record(t, p, nil, journal.State{Position: 1})
	begun, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- p.Snapshot(t.Context(), journal.State{Position: 1}, func(yield func(journal.Row) bool) {
			close(begun)
			<-goOn
			yield(journal.Row{Key: "default/a", UID: uid("a"), Version: 1, Sent: true})
		})
	}()
	<-begun
	deliver(t, p, change(t, "b", 2))
	record(t, p, nil, journal.State{Position: 2})
	if err := js.DeleteStream(t.Context(), "K8S"); err != nil {
		t.Fatal(err)
	}
	replaced(t, func() error {
		_, err := p.Publish(t.Context(), batchOf(change(t, "c", 3)))
		return err
	})
	claim(t, p, l)
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	deliver(t, p, change(t, "c", 3))
	record(t, p, nil, journal.State{Position: 3})
	if c, _ := lastControl(t, js, p.subject); len(c.Snapshots) > 0 {
		t.Errorf("the control message refers to %+v of another stream", c.Snapshots)
	}
	if _, _, l, c := restart(t, o); len(l.rows) != 1 || c.Gap != "" {
		t.Errorf("claim: %+v, rows %q", c, l.versions())
	}
}

// unavailable is what a server says whose cluster elects a leader.
var unavailable = &jetstream.APIError{Code: 503, ErrorCode: 10008, Description: "JetStream system temporarily unavailable"}

// trouble has requests about the bucket come to nothing.
type trouble struct {
	jetstream.JetStream
	jetstream.ObjectStore
	open, list error
	get        []error // of the first requests for a snapshot
	always     error   // of those after them
}

func (x *trouble) into(ses *session) {
	x.JetStream, ses.js = ses.js, opening{ses.js, x}
}

// opening is the way to a bucket in trouble.
type opening struct {
	jetstream.JetStream
	trouble *trouble
}

func (o opening) ObjectStore(ctx context.Context, name string) (store jetstream.ObjectStore, err error) {
	if o.trouble.open != nil {
		return nil, o.trouble.open
	}
	o.trouble.ObjectStore, err = o.JetStream.ObjectStore(ctx, name)
	return o.trouble, err
}

func (x *trouble) List(ctx context.Context, options ...jetstream.ListObjectsOpt) ([]*jetstream.ObjectInfo, error) {
	if x.list != nil {
		return nil, x.list
	}
	return x.ObjectStore.List(ctx, options...)
}

func (x *trouble) Get(ctx context.Context, name string, options ...jetstream.GetObjectOpt) (jetstream.ObjectResult, error) {
	err := x.always
	if len(x.get) > 0 {
		err, x.get = x.get[0], x.get[1:]
	}
	object, failed := x.ObjectStore.Get(ctx, name, options...)
	switch {
	case failed != nil:
		return nil, failed
	case err == nil:
		return object, nil
	case errors.Is(err, jetstream.ErrDigestMismatch) || errors.Is(err, errEnded):
		return &broken{object, err}, nil
	}
	_ = object.Close()
	return nil, err
}

// broken ends in an error instead of where it ends.
type broken struct {
	jetstream.ObjectResult
	why error
}

func (b *broken) Read(to []byte) (int, error) {
	n, err := b.ObjectResult.Read(to)
	if errors.Is(err, io.EOF) {
		err = b.why
	}
	return n, err
}

func (b *broken) Error() error { return b.why }

// A bucket that does not answer is not an empty one: nothing is concluded from
// that, and nothing deleted.
func TestBucketInTrouble(t *testing.T) {
	for _, test := range []struct {
		why     string
		trouble trouble
		purge   bool // the control messages, so that the bucket alone says what there is
		fails   string
	}{
		{why: "no leader, when a snapshot is read", trouble: trouble{always: unavailable}, fails: "temporarily unavailable (10008)"},
		{why: "nobody answers, when a snapshot is read", trouble: trouble{always: natsgo.ErrNoResponders}, fails: "no JetStream answers"},
		{why: "too late an answer", trouble: trouble{always: errNoAnswer}, fails: "did not answer"},
		{why: "the connection ends in the middle of a snapshot", trouble: trouble{always: errEnded}, fails: errEnded.Error()},
		{why: "no leader, when the bucket is looked for", trouble: trouble{open: unavailable}, fails: "temporarily unavailable (10008)"},
		{why: "no leader, when the bucket is listed", trouble: trouble{list: unavailable}, purge: true, fails: "temporarily unavailable (10008)"},
		{why: "no leader, and no control message", trouble: trouble{always: unavailable}, purge: true, fails: "temporarily unavailable (10008)"},
		{
			why: "a replica that stays behind", trouble: trouble{always: jetstream.ErrObjectNotFound},
			fails: "the replica that answered does not have it yet",
		},
		{why: "a replica that was behind", trouble: trouble{get: []error{jetstream.ErrObjectNotFound, jetstream.ErrObjectNotFound}}},
		{why: "a replica that had a part of it", trouble: trouble{get: []error{jetstream.ErrDigestMismatch}}},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			o := options(t, server)
			want := twoSnapshots(t, o)
			before := snapshotNames(t, js)
			purge(t, js, jetstream.WithPurgeSubject("k8s.*.*.*.*.object0"))
			purge(t, js, jetstream.WithPurgeSubject("k8s.*.*.*.*.object1"))
			if test.purge {
				purge(t, js, jetstream.WithPurgeSubject("crbridge.>"))
			}
			s := open(t, o).connected(t)
			ses, err := s.session()
			if err != nil {
				t.Fatal(err)
			}
			test.trouble.into(ses)
			p, l := s.Publisher(orders).(*streamPublisher), &ledger{}
			if test.fails != "" {
				for range 2 {
					if c, err := p.Claim(t.Context(), l); err == nil || !strings.Contains(err.Error(), test.fails) {
						t.Fatalf("claim: %+v, %v; want %s", c, err, test.fails)
					}
				}
				if diff := cmp.Diff(before, snapshotNames(t, js)); diff != "" {
					t.Errorf("in the bucket (-before +after the claim that failed):\n%s", diff)
				}
				s, l = open(t, o).connected(t), &ledger{} // as after a crash
				p = s.Publisher(orders).(*streamPublisher)
			}
			c, err := p.Claim(t.Context(), l)
			if err != nil || !c.Known || (c.Gap == "") == test.purge || (c.State.Position != 3) != test.purge {
				t.Errorf("claim: %+v, %v", c, err)
			}
			if diff := cmp.Diff(want, l.versions()); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			record(t, p, nil, c.State)
			if _, _, l, c := restart(t, o); c.Gap != "" || !slices.Equal(l.versions(), want) {
				t.Errorf("the next claim: %+v, rows %q", c, l.versions())
			}
		})
	}
}

// Where nothing is needed of the bucket, its trouble holds up nobody.
func TestBucketInTroubleAndNothingInIt(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	_, p, _, _ := restart(t, o)
	deliver(t, p, change(t, "a", 1))
	record(t, p, nil, journal.State{Position: 1})
	s := open(t, o).connected(t)
	ses, err := s.session()
	if err != nil {
		t.Fatal(err)
	}
	(&trouble{open: unavailable}).into(ses)
	l := &ledger{}
	c, err := s.Publisher(orders).(*streamPublisher).Claim(t.Context(), l)
	if err != nil || c.Gap != "" || !slices.Equal(l.versions(), []string{"a 1"}) || len(s.Status().Notes) > 0 {
		t.Errorf("claim: %+v, %v, rows %q, notes %q", c, err, l.versions(), s.Status().Notes)
	}
}

// A right that is missing is no trouble that passes: the way back is long, and
// what could not be read stays.
func TestSnapshotsMayNotBeRead(t *testing.T) {
	for _, test := range []struct{ why, deny, said string }{
		{"the bucket may not be looked for", "$JS.API.STREAM.INFO.OBJ_crbridge", "to $JS.API.STREAM.INFO.OBJ_crbridge"},
		{"no snapshot may be looked for", "$JS.API.DIRECT.GET.OBJ_crbridge.>", "cannot be used: the server does not permit"},
		{"no snapshot may be read", "$JS.API.CONSUMER.CREATE.OBJ_crbridge.>", "cannot be used: the server does not permit"},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, fmt.Sprintf(permissions, `"`+test.deny+`"`, ""))
			js := streamsOf(t, client(t, "nats://admin:admin@"+server.Address))
			o := options(t, server)
			o.Auth = Auth{UserFile: file(t, "admin"), PasswordFile: file(t, "admin")}
			want := twoSnapshots(t, o)
			before := snapshotNames(t, js)
			purge(t, js, jetstream.WithPurgeSubject("k8s.*.*.*.*.object1"))
			purge(t, js, jetstream.WithPurgeSequence(4))
			asBridge(t, &o)
			_, _, l, c := restart(t, o)
			if !strings.Contains(c.Gap, test.said) || c.State.Position != 3 || !slices.Equal(l.versions(), want[2:]) {
				t.Errorf("claim: %+v, rows %q", c, l.versions())
			}
			if diff := cmp.Diff(before, snapshotNames(t, js)); diff != "" {
				t.Errorf("in the bucket (-before +after):\n%s", diff)
			}
		})
	}
}

// unsent are rows of so many objects that no event tells.
func unsent(n int) (rows []journal.Row) {
	for i := range n {
		key := fmt.Sprint("object", i)
		rows = append(rows, journal.Row{Key: "default/" + key, UID: uid(key), Version: 1})
	}
	return rows
}

// A message may have thousands of rows, and it is rows that a restart has to
// read.
func TestSnapshotIsDueByRows(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	_, first, _, _ := restart(t, o)
	record(t, first, unsent(leastTail-1), journal.State{Position: 1})
	if first.SnapshotDue(1) {
		t.Errorf("a snapshot is due at %d rows", leastTail-1)
	}
	more := change(t, "more", 2)
	deliver(t, first, more)
	record(t, first, nil, journal.State{Position: 2})
	if !first.SnapshotDue(1) || first.SnapshotDue(2*leastTail+2) {
		t.Errorf("at %d rows a snapshot is due: %t; where the ledger has as many again: %t", leastTail, first.SnapshotDue(1), first.SnapshotDue(2*leastTail+2))
	}
	if c, _ := lastControl(t, js, first.subject); c.Tail.Count != 4 {
		t.Errorf("the control message counts %d messages, want 4", c.Tail.Count)
	}
	_, p, l, _ := restart(t, o)
	if !p.SnapshotDue(1) {
		t.Error("after a restart none is due")
	}
	takeSnapshot(t, p, l, journal.State{Position: 3})
	p.shot = time.Time{}
	if p.SnapshotDue(1) || p.weight != 0 {
		t.Errorf("right after a snapshot one is due, and there are %d rows", p.weight)
	}
}

// Rows that snapshots have go, whoever wrote them.
func TestOldRowsGo(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	_, p, l, _ := restart(t, o)
	record(t, p, unsent(3), journal.State{Position: 1})
	for _, row := range unsent(3) {
		l.Restore(row)
	}
	takeSnapshot(t, p, l, journal.State{Position: 1})
	_, p, l, _ = restart(t, o)
	for round := range 2 {
		e := change(t, "object", round+2)
		deliver(t, p, e)
		l.Restore(rowOf(&e))
		takeSnapshot(t, p, l, journal.State{})
	}
	for _, m := range allMessages(t, js, "K8S") {
		if strings.HasPrefix(m.Subject, p.subject+".rows.") {
			t.Errorf("left is %s", m.Subject)
		}
	}
}

// A bucket that somebody deletes while the bridge runs is made again.
func TestBucketIsDeleted(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	s, p, l, _ := restart(t, options(t, server))
	deliver(t, p, change(t, "a", 1))
	l.Restore(journal.Row{Key: "default/a", UID: uid("a"), Version: 1, Sent: true})
	takeSnapshot(t, p, l, journal.State{Position: 1})
	for _, test := range []struct {
		why string
		try func() error
	}{
		{"a snapshot is written", func() error { return p.Snapshot(t.Context(), journal.State{Position: 1}, l.each()) }},
		{"a flow is claimed", func() error {
			q := s.Publisher(orders).(*streamPublisher)
			_, err := q.Claim(t.Context(), &ledger{})
			p = q
			return err
		}},
	} {
		if err := js.DeleteObjectStore(t.Context(), bucket); err != nil {
			t.Fatal(err)
		}
		eventually(t, test.why, func() (string, bool) {
			err := test.try()
			return fmt.Sprint(err), err == nil
		})
		takeSnapshot(t, p, l, journal.State{Position: 1})
		if names := snapshotNames(t, js); len(names) == 0 {
			t.Errorf("%s: there is no snapshot", test.why)
		}
	}
}

// One that stops on its way, as the server does not permit to ask for more of
// it, stays also where it may be deleted: it may be good.
func TestSnapshotThatMayNotBeReadStays(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	twoSnapshots(t, o)
	before := snapshotNames(t, js)
	purge(t, js, jetstream.WithPurgeSequence(4))
	s := open(t, o).connected(t)
	ses, err := s.session()
	if err != nil {
		t.Fatal(err)
	}
	(&trouble{always: &deniedError{"the server does not permit it"}}).into(ses)
	c, err := s.Publisher(orders).(*streamPublisher).Claim(t.Context(), &ledger{})
	if err != nil || !strings.Contains(c.Gap, "cannot be used: the server does not permit it") {
		t.Errorf("claim: %+v, %v", c, err)
	}
	if diff := cmp.Diff(before, snapshotNames(t, js)); diff != "" {
		t.Errorf("in the bucket (-before +after):\n%s", diff)
	}
}
