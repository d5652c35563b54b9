//go:build unix

package faults

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/process"
)

// bridge is one bridge, which is started again when it ends by itself, as a
// Deployment does.
type bridge struct {
	world *world
	name  string

	mu      sync.Mutex
	process *process.Process
	server  string
	starts  int
	failure string        // failpoints of the next start
	wanted  bool          // it should run
	watched chan struct{} // closed when the watch over the process has ended

	peak       float64 // resident memory, in bytes
	suppressed float64 // duplicates, of processes that have ended and of this one
	before     float64 // of those that have ended
	scraping   sync.WaitGroup
	stop       context.CancelFunc
}

func (w *world) newBridge(name string) *bridge {
	ctx, cancel := context.WithCancel(context.Background())
	b := &bridge{world: w, name: name, stop: cancel}
	b.scraping.Go(func() { b.scrape(ctx) })
	return b
}

func (b *bridge) logFile() string { return filepath.Join(b.world.opts.Dir, "bridge-"+b.name+".log") }

// start runs the bridge, until halt.
func (b *bridge) start(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted = true
	return b.launch(ctx)
}

// launch needs mu.
func (b *bridge) launch(ctx context.Context) error {
	path, err := b.world.config(b.name)
	if err != nil {
		return err
	}
	var ports [2]int
	for i := range ports {
		if ports[i], err = controlplane.FreePort(ctx); err != nil {
			return err
		}
	}
	b.server = fmt.Sprintf("127.0.0.1:%d", ports[0])
	health := fmt.Sprintf("127.0.0.1:%d", ports[1])
	env := append([]string{
		"BRIDGE__SERVER__ADDRESS=" + b.server, "BRIDGE__HEALTH__ADDRESS=" + health, "BRIDGE__LOG__LEVEL=debug",
	}, b.world.opts.Env...)
	if b.starts++; b.starts%2 == 0 {
		// Half of the time what takes 2,000 events in a second takes 31: watches that
		// keep connections of their own, and batches that gather.
		env = append(env, "BRIDGE_BOUNDS=64")
	}
	if b.failure != "" {
		env = append(env, "BRIDGE_FAILPOINTS="+b.failure)
		b.failure = ""
	}
	p := process.New(process.Command{
		Name: "bridge " + b.name, Path: b.world.opts.Bridge,
		Args:    []string{"run", "--config", path, "--kubeconfig", b.world.kubeconfig()},
		Env:     env,
		LogFile: b.logFile(),
	})
	if err := p.Start(ctx); err != nil {
		return err
	}
	b.process = p
	watched := make(chan struct{})
	b.watched = watched
	go func() { //nolint:contextcheck // it outlives the call that started it
		defer close(watched)
		<-p.Exited()
		b.ended(p)
	}()
	return nil
}

// ended starts the bridge again, if it should run.
func (b *bridge) ended(p *process.Process) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.before = b.suppressed
	if b.process != p {
		return
	}
	b.process = nil
	if !b.wanted {
		return
	}
	b.world.say("  bridge %s ended with status %d; started again", b.name, p.ExitCode())
	if err := b.launch(context.Background()); err != nil {
		b.world.say("  bridge %s cannot be started: %v", b.name, err)
	}
}

// running is the process, if there is one.
func (b *bridge) running() *process.Process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.process
}

// halt ends the bridge, by SIGTERM or at once.
func (b *bridge) halt(ctx context.Context, kill bool) error {
	b.mu.Lock()
	b.wanted = false
	p, watched := b.process, b.watched
	b.mu.Unlock()
	if p == nil {
		return nil
	}
	var err error
	if kill {
		p.Kill()
	} else {
		err = p.Stop(ctx)
	}
	<-watched
	return err
}

// abandon leaves it to the bridge to end: it is not started again.
func (b *bridge) abandon() *process.Process {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted = false
	return b.process
}

func (b *bridge) close() {
	_ = b.halt(context.Background(), true)
	b.stop()
	b.scraping.Wait()
}

// scrape reads the bridge's metrics every now and then.
func (b *bridge) scrape(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.mu.Lock()
		server := b.server
		b.mu.Unlock()
		if server == "" {
			continue
		}
		families, err := metrics(ctx, server)
		if err != nil {
			continue
		}
		b.mu.Lock()
		b.peak = max(b.peak, sum(families["process_resident_memory_bytes"]))
		b.suppressed = b.before + sum(families["bridge_duplicates_suppressed_total"])
		b.mu.Unlock()
	}
}

func metrics(ctx context.Context, server string) (map[string]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+server+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(response.Body)
}

func sum(f *dto.MetricFamily) (total float64) {
	for _, m := range f.GetMetric() {
		total += m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return total
}

// status is what the bridge says of itself, for a report of what went wrong.
func (b *bridge) status(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.server+"/api/status", nil)
	if err != nil {
		return err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	content, _ := io.ReadAll(response.Body)
	return string(content)
}

// logs are the ends of the bridges' logs.
func (w *world) logs() string {
	var all strings.Builder
	for _, b := range w.bridges {
		content, err := os.ReadFile(b.logFile())
		if err == nil {
			fmt.Fprintf(&all, "bridge %s:\n%s\n", b.name, content[max(0, len(content)-6000):])
		}
	}
	return all.String()
}
