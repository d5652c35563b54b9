package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// version and commit are stamped by the linker: -X main.version=… -X main.commit=…
var version, commit string

// build says which bridge a binary is.
type build struct{ version, commit string }

// thisBuild is what the linker stamped, else what Go noted: the module's version
// where it was installed by `go install …@version`, and the commit where it was
// built in a repository.
func thisBuild() build {
	info, _ := debug.ReadBuildInfo()
	return build{version, commit}.orNoted(info)
}

// orNoted fills in what was not stamped. info may be nil.
func (b build) orNoted(info *debug.BuildInfo) build {
	if info != nil {
		if b.version == "" && info.Main.Version != "(devel)" {
			b.version = info.Main.Version
		}
		for _, setting := range info.Settings {
			if b.commit == "" && setting.Key == "vcs.revision" {
				b.commit = setting.Value
			}
		}
	}
	if b.version == "" {
		b.version = "devel"
	}
	if b.commit == "" {
		b.commit = "unknown"
	}
	return b
}

func (b build) String() string {
	return fmt.Sprintf("bridge %s (commit %s, %s)", b.version, b.commit, runtime.Version())
}

// metric is a series that tells which bridge this is; its value says nothing.
func (b build) metric() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bridge_build_info", Help: "Always 1; its labels say which bridge this is.",
		ConstLabels: prometheus.Labels{"version": b.version, "commit": b.commit, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}
