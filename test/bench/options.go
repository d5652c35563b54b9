//go:build linux

package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// section is a subject of the report. A run may leave some out.
type section string

const (
	drainSection   section = "drain"
	memorySection  section = "memory"
	lagSection     section = "lag"
	restartSection section = "restart"
	routesSection  section = "routes"
	crdsSection    section = "crds"
)

// sections are all, in the order of the report.
func sections() []section {
	return []section{drainSection, memorySection, lagSection, restartSection, routesSection, crdsSection}
}

// options are the size of a run, and where its results go.
type options struct {
	objects  int   // for all but memory and restarts
	memory   []int // numbers of objects, growing
	size     int   // bytes of each object's spec
	rates    []int // events/s
	window   time.Duration
	crds     []int // growing
	rounds   int
	only     []section
	bridge   string
	doc      string
	profiles string
	keep     bool
	check    bool
	quick    bool
}

// whole says whether the results may be shown: those of all sections, more than
// once.
func (o *options) whole() bool { return len(o.only) == 0 && !o.quick && o.rounds >= 3 }

// usageError is a mistake of who calls the program.
type usageError struct{ error }

func parseOptions(args []string, stderr io.Writer) (options, error) {
	o := options{
		objects: 20_000, memory: []int{5_000, 20_000, 100_000}, size: 2048,
		rates: []int{50, steadyRate, 500}, window: 5 * time.Second, crds: []int{100, 300, 1000}, rounds: 3,
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.quick, "quick", false, "small sizes and one round, to see that it works; what else is said counts all the same")
	flags.IntVar(&o.objects, "objects", o.objects, "how many objects change, in drains, for the lag and with several routes")
	numbersVar(flags, &o.memory, "memory", "for how many objects memory is measured; restarts are with the most of them")
	flags.IntVar(&o.size, "size", o.size, "bytes of each object's spec")
	numbersVar(flags, &o.rates, "rates", "events in a second at which the lag is measured")
	flags.DurationVar(&o.window, "window", o.window, "how long objects change at each rate")
	numbersVar(flags, &o.crds, "crds", "for how many CRDs flows are measured")
	flags.IntVar(&o.rounds, "rounds", o.rounds, "how often everything is measured")
	flags.Func("only", fmt.Sprintf("the sections that are measured, of %v (default all)", sections()), func(s string) error {
		for name := range strings.SplitSeq(s, ",") {
			if !slices.Contains(sections(), section(name)) {
				return fmt.Errorf("there is no section %q", name)
			}
			o.only = append(o.only, section(name))
		}
		return nil
	})
	flags.StringVar(&o.bridge, "bridge", "", "the bridge's executable (default: cmd/bridge is built)")
	flags.StringVar(&o.doc, "doc", "", "write the results of a whole run into performance.md in this directory, and the plots beside it")
	flags.StringVar(&o.profiles, "profiles", "", "write profiles of the bridge into this directory; to take them needs time, and none that is measured")
	flags.BoolVar(&o.keep, "keep", false, "leave configurations and logs, and say where")
	flags.BoolVar(&o.check, "check", false, "fail where a goal is missed")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.quick {
		small := map[string]string{"objects": "500", "memory": "500", "rates": "50", "window": "1s", "crds": "10", "rounds": "1"}
		flags.Visit(func(f *flag.Flag) { delete(small, f.Name) })
		for name, value := range small {
			if err := flags.Set(name, value); err != nil {
				return o, err
			}
		}
	}
	return o, o.problem(flags.Args())
}

func (o *options) problem(arguments []string) error {
	switch {
	case len(arguments) > 0:
		return &usageError{fmt.Errorf("unexpected argument %q", arguments[0])}
	case o.objects < 1 || o.rounds < 1 || o.size < 0 || o.window <= 0:
		return &usageError{fmt.Errorf("objects, rounds and window are above 0, and size is not below")}
	}
	return nil
}

// numbersVar is a flag that takes numbers above 0 with commas between, which
// have to grow.
func numbersVar(flags *flag.FlagSet, into *[]int, name, usage string) {
	flags.Func(name, fmt.Sprintf("%s (default %s)", usage, strings.Trim(fmt.Sprint(*into), "[]")), func(s string) error {
		var numbers []int
		for word := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(word)
			if err != nil {
				return err
			}
			if n < 1 || len(numbers) > 0 && n <= numbers[len(numbers)-1] {
				return fmt.Errorf("%d: numbers are above 0 and grow", n)
			}
			numbers = append(numbers, n)
		}
		*into = numbers
		return nil
	})
}

func (o *options) selected(s section) bool { return len(o.only) == 0 || slices.Contains(o.only, s) }

// at are the sections that want that number of objects. Drains measure the
// memory as well.
func (o *options) at(count int) (here []section) {
	for _, s := range sections() {
		if o.selected(s) && slices.Contains(o.countsOf(s), count) {
			here = append(here, s)
		}
	}
	return here
}

// countsOf are the numbers of objects of a section.
func (o *options) countsOf(s section) []int {
	switch s {
	case drainSection, lagSection, routesSection:
		return []int{o.objects}
	case memorySection:
		return slices.DeleteFunc(slices.Clone(o.memory), func(n int) bool { return n == o.objects && o.selected(drainSection) })
	case restartSection:
		return []int{o.memory[len(o.memory)-1]}
	case crdsSection:
	}
	return nil
}

// counts are all numbers of objects that are needed, growing.
func (o *options) counts() (counts []int) {
	for _, s := range sections() {
		if o.selected(s) {
			counts = append(counts, o.countsOf(s)...)
		}
	}
	slices.Sort(counts)
	return slices.Compact(counts)
}
