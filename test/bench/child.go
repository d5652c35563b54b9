//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/process"
)

// childArg makes this program one of the processes that are measured beside the
// bridge; the word behind it says which.
const childArg = "child"

// settings are what a child is told.
type settings struct {
	address    string // where it answers
	kubeconfig string
	nats       string // URL
	stream     string
	crds       int  // of the numbered CRDs, how many are watched; 0 is the CRD of the objects
	empty      bool // the CRD without objects is watched
	http1      bool // over HTTP/1.1
}

// noCRDs as their number has a child watch nothing.
const noCRDs = -1

func (s settings) flags() []string {
	return []string{
		"-address", s.address, "-kubeconfig", s.kubeconfig, "-nats", s.nats, "-stream", s.stream,
		"-crds", strconv.Itoa(s.crds), "-empty=" + strconv.FormatBool(s.empty), "-http1=" + strconv.FormatBool(s.http1),
	}
}

func (s settings) config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	if s.http1 {
		config.NextProtos = []string{"http/1.1"}
	}
	return config, err
}

// work is what a kind of child does until ctx ends. It adds what it answers to
// the mux before it calls ready.
type work func(ctx context.Context, s settings, mux *http.ServeMux, ready func()) error

func works() map[string]work {
	return map[string]work{"watch": watchWork, "publish": publishWork, "stock": stockWork}
}

// runChild is a child's whole life: it works and answers until it is told to end.
func runChild(ctx context.Context, args []string) (err error) {
	if len(args) == 0 || works()[args[0]] == nil {
		return fmt.Errorf("there is no such child: %q", args)
	}
	var s settings
	flags := flag.NewFlagSet(childArg, flag.ContinueOnError)
	flags.StringVar(&s.address, "address", "", "")
	flags.StringVar(&s.kubeconfig, "kubeconfig", "", "")
	flags.StringVar(&s.nats, "nats", "", "")
	flags.StringVar(&s.stream, "stream", "", "")
	flags.IntVar(&s.crds, "crds", 0, "")
	flags.BoolVar(&s.empty, "empty", false, "")
	flags.BoolVar(&s.http1, "http1", false, "")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.Handler())
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	server := &http.Server{Addr: s.address, Handler: mux, ReadHeaderTimeout: time.Minute}
	defer func() { err = errors.Join(err, server.Close()) }()
	failed := make(chan error, 1)
	err = works()[args[0]](ctx, s, mux, func() {
		go func() {
			failed <- server.ListenAndServe()
			stop()
		}()
	})
	if ctx.Err() == nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil // told to end
	}
}

// child starts one, and returns when it is at work. It logs to a file of that
// name.
func (w *world) child(ctx context.Context, kind, name string, s settings) (*measured, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if s.address, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	s.kubeconfig, s.nats = w.cp.AdminKubeconfig(), w.nats.URL()
	m := &measured{server: "http://" + s.address, began: time.Now()}
	m.Process = process.New(process.Command{
		Name: name, Path: self, Args: append([]string{childArg, kind}, s.flags()...),
		LogFile: filepath.Join(w.dir, name+".log"),
		Ready: func(ctx context.Context) error {
			_, err := get(ctx, m.server+"/metrics")
			return err
		},
	})
	return m, m.Start(ctx)
}

func freeAddress(ctx context.Context) (string, error) {
	port, err := controlplane.FreePort(ctx)
	return "127.0.0.1:" + strconv.Itoa(port), err
}
