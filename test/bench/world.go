//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/servers"
)

// world is what runs beside what is measured.
type world struct {
	dir        string // configurations and logs
	executable string // the bridge
	progress   io.Writer
	cp         *controlplane.ControlPlane
	nats       *controlplane.NATSServer
	conn       *nats.Conn
	js         jetstream.JetStream
}

// newWorld builds the bridge, unless there is one, and starts the servers.
func newWorld(ctx context.Context, o options, progress io.Writer) (_ *world, err error) {
	dir, err := os.MkdirTemp("", "crbridge-bench-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, executable: o.bridge, progress: progress}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close(true))
		}
	}()
	if w.executable == "" {
		if w.executable, err = servers.BuildBridge(ctx, dir, progress, "-trimpath", "-ldflags=-s -w"); err != nil {
			return nil, err
		}
	}
	fmt.Fprintln(progress, "starting a Kubernetes API server and a NATS server")
	w.cp, err = controlplane.Start(ctx, controlplane.Options{
		Progress: progress, LogDir: dir,
		// History ends when the benchmark says so.
		APIServerFlags: []string{"--etcd-compaction-interval=0"},
		EtcdFlags:      []string{"--quota-backend-bytes=" + strconv.Itoa(8<<30)},
	})
	if err != nil {
		return nil, err
	}
	if w.nats, err = controlplane.StartNATS(ctx, controlplane.NATSOptions{Progress: progress, LogDir: dir}); err != nil {
		return nil, err
	}
	if w.conn, err = nats.Connect(w.nats.URL()); err != nil {
		return nil, err
	}
	if w.js, err = jetstream.New(w.conn); err != nil {
		return nil, err
	}
	// When an account's last stream is deleted the server removes the directory
	// of all, and one that is created at that moment fails.
	_, err = w.js.CreateStream(ctx, jetstream.StreamConfig{Name: "KEEP", Subjects: []string{"keep"}})
	return w, err
}

// close ends the servers and removes what they have written, unless its logs
// are to be kept.
func (w *world) close(keep bool) error {
	if w.conn != nil {
		w.conn.Close()
	}
	client.CloseIdleConnections()
	var errs error
	if w.nats != nil {
		errs = errors.Join(errs, w.nats.Close())
	}
	if w.cp != nil {
		errs = errors.Join(errs, w.cp.Close())
	}
	if keep {
		w.say("the logs are in %s", w.dir)
		return errs
	}
	return errors.Join(errs, os.RemoveAll(w.dir))
}

func (w *world) say(format string, args ...any) { fmt.Fprintf(w.progress, format+"\n", args...) }

// stored waits until the stream has this version of the object, or a newer one,
// on that route. Nothing of the flow is stored behind it before what came first.
// The server tells when the event comes: to ask for it again and again would be
// work for the server that is measured.
func (w *world) stored(ctx context.Context, stream string, r int, p place) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	s, err := w.js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	coming, err := w.conn.SubscribeSync(subject(stream, r, p.name))
	if err != nil {
		return err
	}
	defer func() { _ = coming.Unsubscribe() }()
	if err := w.conn.FlushWithContext(ctx); err != nil {
		return err
	}
	version, err := stored(ctx, s, coming.Subject)
	for told := version; err == nil && told < p.version; {
		message, missed := coming.NextMsg(time.Second)
		if errors.Is(missed, nats.ErrTimeout) && ctx.Err() == nil {
			// It was told of before that was listened to, and stored after it was
			// asked for, as the messages of a batch are.
			version, err = stored(ctx, s, coming.Subject)
			told = version
			continue
		}
		if err = errors.Join(missed, ctx.Err()); err == nil {
			told, err = versionIn(message.Header)
		}
	}
	if err == nil && version < p.version { // it is told of before it is stored
		err = until(ctx, time.Millisecond, func() (bool, error) {
			version, err = stored(ctx, s, coming.Subject)
			return version >= p.version, err
		})
	}
	if err != nil {
		return fmt.Errorf("waiting for version %d of %s in stream %s, which has %d: %w", p.version, p.name, stream, version, err)
	}
	return nil
}

// stored is the version of the object whose event on the subject is the last; 0
// where there is none.
func stored(ctx context.Context, s jetstream.Stream, subject string) (uint64, error) {
	message, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return versionIn(message.Header)
}

func versionIn(header nats.Header) (uint64, error) {
	return strconv.ParseUint(header.Get("ce-resourceversion"), 10, 64)
}

// events counts a stream's events behind a sequence.
func (w *world) events(ctx context.Context, stream string, behind uint64) (int, error) {
	consumer, err := w.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		FilterSubject: stream + ".>", DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: behind + 1,
		AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return 0, err
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return 0, err
	}
	return int(info.NumPending), w.js.DeleteConsumer(ctx, stream, info.Name)
}

// lastSequence is that of the stream.
func (w *world) lastSequence(ctx context.Context, stream string) (uint64, error) {
	s, err := w.js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().State.LastSeq, nil
}

// drop deletes a stream that is not needed any more, also when ctx is done.
func (w *world) drop(ctx context.Context, stream string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err := w.js.DeleteStream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// expect has a child answer to wait when it has seen that many more events.
func expect(ctx context.Context, m *measured, count int) error {
	_, err := get(ctx, m.server+"/expect?count="+strconv.Itoa(count))
	return err
}

func wait(ctx context.Context, m *measured) error {
	_, err := get(ctx, m.server+"/wait")
	return err
}
