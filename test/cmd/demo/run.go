//go:build unix

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/process"
	"github.com/crbridge/crbridge/test/servers"
)

//go:embed manifests/bridge.yaml
var bridgeConfig string

// stopTimeout bounds the bridge's end; it delivers what is queued first.
const stopTimeout = 30 * time.Second

// stage is all that the demo has started so far.
type stage struct {
	screen     *screen
	dir        string // configuration and logs
	cp         *controlplane.ControlPlane
	nats       *controlplane.NATSServer
	bridge     *process.Process
	statusPage string // URL of the bridge's
}

// run sets the stage, plays until ctx ends, the time is up or something fails,
// and clears the stage.
func run(ctx context.Context, opts options, out *screen) (err error) {
	dir, err := os.MkdirTemp("", "crbridge-demo-")
	if err != nil {
		return err
	}
	s := &stage{screen: out, dir: dir}
	defer func() {
		if ctx.Err() != nil {
			err = nil // the user has interrupted whatever was going on
		}
		err = errors.Join(err, s.clear(context.WithoutCancel(ctx)))
		if err == nil {
			err = os.RemoveAll(dir)
			out.note("all that was started has ended, and its files are removed")
		} else {
			out.note("all that was started has ended; the logs are in %s", dir)
		}
	}()
	if err := s.set(ctx, opts); err != nil {
		return err
	}
	return s.play(ctx, opts)
}

// set builds what is needed and starts the servers.
func (s *stage) set(ctx context.Context, opts options) (err error) {
	s.screen.step("Preparing kube-apiserver, etcd, nats-server and the bridge")
	for _, server := range servers.All() {
		path, err := servers.Path(ctx, server, s.screen)
		if err != nil {
			return err
		}
		s.screen.note("%s", path)
	}
	executable := opts.bridge
	if executable == "" {
		if executable, err = servers.BuildBridge(ctx, s.dir, s.screen); err != nil {
			return err
		}
	}

	s.screen.step("Starting a Kubernetes API server")
	if s.cp, err = controlplane.Start(ctx, controlplane.Options{LogDir: s.dir}); err != nil {
		return err
	}
	s.screen.note("try: kubectl --kubeconfig %s get orders --watch", s.cp.AdminKubeconfig())

	s.screen.step("Starting a NATS server with JetStream")
	if s.nats, err = controlplane.StartNATS(ctx, controlplane.NATSOptions{LogDir: s.dir}); err != nil {
		return err
	}
	s.screen.note("try: nats --server %s subscribe 'k8s.>'", s.nats.URL())

	return s.configureBridge(ctx, executable)
}

// configureBridge writes the bridge's configuration, and makes a service account
// for it that may read CRDs and orders, and nothing else.
func (s *stage) configureBridge(ctx context.Context, executable string) error {
	read := []string{"get", "list", "watch"}
	account, err := s.cp.ServiceAccount(ctx, "crbridge", "bridge", []rbacv1.PolicyRule{
		{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: read},
		{APIGroups: []string{"shop.example.com"}, Resources: []string{"orders"}, Verbs: read},
	})
	if err != nil {
		return err
	}
	health, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	server, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	config := filepath.Join(s.dir, "bridge.yaml")
	content := fmt.Sprintf(bridgeConfig, health, server, s.nats.URL())
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		return err
	}
	s.statusPage = "http://" + server + "/"
	s.bridge = process.New(process.Command{
		Name:    "bridge",
		Path:    executable,
		Args:    []string{"run", "--config", config, "--kubeconfig", account.Kubeconfig},
		LogFile: filepath.Join(s.dir, "bridge.log"),
		Tee:     &alarms{screen: s.screen},
		Ready:   answers("http://" + health + "/readyz"),
	})
	return nil
}

func freeAddress(ctx context.Context) (string, error) {
	port, err := controlplane.FreePort(ctx)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), err
}

// answers returns a check that url answers with status 200.
func answers(url string) func(context.Context) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
		return nil
	}
}

// play opens the market, starts the bridge, prints what it delivers and changes
// orders, until ctx ends, the time is up or one of the processes ends.
func (s *stage) play(ctx context.Context, opts options) error {
	market, err := newMarket(s.cp.Admin(), s.screen)
	if err != nil {
		return err
	}
	if err := market.open(ctx); err != nil {
		return err
	}

	s.screen.step("Running bridge run --config %s", filepath.Join(s.dir, "bridge.yaml"))
	s.screen.note("log:    %s", s.bridge.LogFile())
	if err := s.bridge.Start(ctx); err != nil {
		return err
	}
	s.screen.note("status: %s", s.statusPage)

	ctx, end := context.WithCancelCause(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer end(nil)
	for name, p := range map[string]*process.Process{
		"bridge": s.bridge, "nats-server": s.nats.Process, "kube-apiserver": s.cp.APIServer, "etcd": s.cp.Etcd,
	} {
		watchers.Go(func() {
			select {
			case <-ctx.Done():
			case <-p.Exited():
				end(fmt.Errorf("%s ended unexpectedly, with exit status %d\n%s", name, p.ExitCode(), p.LogTail()))
			}
		})
	}

	subscription, err := subscribe(ctx, s.nats.URL(), s.screen)
	if err != nil {
		return because(ctx, err)
	}
	defer subscription.close()
	if opts.duration > 0 {
		timer := time.AfterFunc(opts.duration, func() { end(errTimeUp) })
		defer timer.Stop()
	}
	return because(ctx, market.trade(ctx, opts.crdCycle))
}

// errTimeUp ends a play of limited duration.
var errTimeUp = errors.New("the time is up")

// because returns the error that a play ends with: what has ended its context,
// if something has, since then err is only the consequence.
func because(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return err
	case errors.Is(cause, errTimeUp):
		return nil
	default:
		return cause
	}
}

// clear stops everything that was started: the bridge as a user would, so that
// it can deliver what is queued; then the servers.
func (s *stage) clear(ctx context.Context) error {
	s.screen.step("Stopping")
	var errs error
	if s.bridge != nil && s.bridge.PID() != 0 {
		ctx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		if err := s.bridge.Stop(ctx); err != nil {
			errs = err
		} else if code := s.bridge.ExitCode(); code != 0 {
			errs = fmt.Errorf("bridge: exit status %d after SIGTERM, want 0\n%s", code, s.bridge.LogTail())
		}
	}
	if s.nats != nil {
		errs = errors.Join(errs, s.nats.Close())
	}
	if s.cp != nil {
		errs = errors.Join(errs, s.cp.Close())
	}
	return errs
}
