// Command bridge follows Kubernetes custom resources and publishes every
// change of theirs as a CloudEvent.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(exitStatus(err, os.Stderr))
}

// errUsage marks errors of the command line and of the configuration.
var errUsage = errors.New("usage")

// usageError is an error for which the exit status is 2.
type usageError struct{ error }

func (usageError) Is(target error) bool { return target == errUsage }
func (e usageError) Unwrap() error      { return e.error }

// exitStatus prints what went wrong, and is 0 where nothing did, 2 for a usage
// or configuration error and 1 for a failure while running.
func exitStatus(err error, stderr io.Writer) int {
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintln(stderr, err)
		return 2
	default:
		fmt.Fprintln(stderr, "bridge:", err)
		return 1
	}
}

const usage = `bridge publishes every change of Kubernetes custom resources as a CloudEvent.

Usage:
  bridge [run] --config FILE      run the bridge until SIGTERM or SIGINT
  bridge validate --config FILE [--cluster]
                                  check the configuration file; with --cluster,
                                  look at the cluster and the sinks as well
  bridge rbac --config FILE       print the roles that the bridge needs for the
                                  file, and no more, as YAML
  bridge permissions --config FILE
                                  print what the sinks' NATS users have to be
                                  allowed, and no more
  bridge resync --config FILE --route R
                                  have the running bridge deliver the present
                                  state of the route's objects again, as existing
  bridge tail --config FILE       print the events of a sink as they come, until
                                  SIGTERM or SIGINT
  bridge schema                   print the JSON Schema of the configuration
  bridge version                  print version, commit and Go version

Flags:
  --config FILE       the configuration
  --route R           the name of a route
  --cluster           look at the cluster and the sinks, and print a table
  --namespace NS      where the bridge runs; default: crbridge-system
  --service-account SA
                      as what it runs; default: crbridge
  --sink NAME         of tail: which sink; default: the only one
  --from-start        of tail: begin with what the stream has
  --crd, --namespace, --name, --type, --route
                      of tail: show nothing else
  --subject SUBJECT   of tail: a NATS subject instead of the sink's
  -o text|json        of tail: a line, or the whole CloudEvent as JSON
  --kubeconfig FILE   how to reach the cluster; without it: the cluster that the
                      bridge runs in, then $KUBECONFIG, then ~/.kube/config
`

// options are the flags of all commands.
type options struct {
	config, kubeconfig, route string
	namespace, serviceAccount string
	cluster                   bool
	tail                      tailOptions
}

// command is what the bridge can be told to do.
type command struct {
	name  string
	flags func(*flag.FlagSet, *options)
	// plain: it needs no configuration.
	plain bool
	run   func(ctx context.Context, o options, environ []string, stdout, stderr io.Writer) error
}

func kubeconfigFlag(f *flag.FlagSet, o *options) { f.StringVar(&o.kubeconfig, "kubeconfig", "", "") }

func commands() []command {
	return []command{
		{name: "run", flags: kubeconfigFlag, run: func(ctx context.Context, o options, environ []string, _, stderr io.Writer) error {
			return bridge(ctx, o.config, o.kubeconfig, environ, stderr)
		}},
		{name: "validate", flags: func(f *flag.FlagSet, o *options) {
			kubeconfigFlag(f, o)
			f.BoolVar(&o.cluster, "cluster", false, "")
		}, run: validate},
		{name: "rbac", flags: func(f *flag.FlagSet, o *options) {
			kubeconfigFlag(f, o)
			f.StringVar(&o.namespace, "namespace", "crbridge-system", "")
			f.StringVar(&o.serviceAccount, "service-account", "crbridge", "")
		}, run: printRBAC},
		{name: "permissions", run: printPermissions},
		{name: "resync", flags: func(f *flag.FlagSet, o *options) {
			f.StringVar(&o.route, "route", "", "")
		}, run: resync},
		{name: "tail", flags: func(f *flag.FlagSet, o *options) {
			t := &o.tail
			f.StringVar(&t.sink, "sink", "", "")
			f.StringVar(&t.subject, "subject", "", "")
			f.StringVar(&t.crd, "crd", "", "")
			f.StringVar(&t.namespace, "namespace", "", "")
			f.StringVar(&t.name, "name", "", "")
			f.StringVar(&t.kind, "type", "", "")
			f.StringVar(&t.route, "route", "", "")
			f.StringVar(&t.output, "o", "text", "")
			f.StringVar(&t.output, "output", "text", "")
			f.BoolVar(&t.fromStart, "from-start", false, "")
		}, run: tail},
		{name: "schema", plain: true, run: printSchema},
		{name: "version", plain: true, run: func(_ context.Context, _ options, _ []string, stdout, _ io.Writer) error {
			fmt.Fprintln(stdout, thisBuild())
			return nil
		}},
		{name: "help", plain: true, run: func(_ context.Context, _ options, _ []string, stdout, _ io.Writer) error {
			fmt.Fprint(stdout, usage)
			return nil
		}},
	}
}

// run is the program: what it is told, with its surroundings passed in.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	name := "run"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		names := make([]string, 0, len(all))
		for _, c := range all {
			names = append(names, c.name)
		}
		return usageError{fmt.Errorf("bridge: there is no command %q; commands are %s (see bridge help)", name, strings.Join(names, ", "))}
	}
	c := all[i]
	var o options
	flags := flag.NewFlagSet("bridge "+name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	if !c.plain {
		flags.StringVar(&o.config, "config", "", "")
	}
	if c.flags != nil {
		c.flags(flags, &o)
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, usage)
			return nil
		}
		return usageError{fmt.Errorf("bridge %s: %w (see bridge help)", name, err)}
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("bridge %s: unexpected argument %q (see bridge help)", name, flags.Arg(0))}
	}
	if o.config == "" && !c.plain {
		return usageError{fmt.Errorf("bridge %s: --config FILE is required", name)}
	}
	return c.run(ctx, o, environ, stdout, stderr)
}
