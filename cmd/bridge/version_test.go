package main

import (
	"runtime/debug"
	"testing"
)

func TestBuild(t *testing.T) {
	noted := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: settings}
	}
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "0123"}
	for _, tc := range []struct {
		reason  string
		stamped build
		info    *debug.BuildInfo
		want    build
	}{
		{"make build and the image stamp both", build{"v1.2.3", "abcd"}, noted("v1.2.4-0.20260101000000-0123+dirty", revision), build{"v1.2.3", "abcd"}},
		{"go install …@v1.2.3 knows no repository", build{}, noted("v1.2.3"), build{"v1.2.3", "unknown"}},
		{"go build in a repository", build{}, noted("v1.2.4-0.20260101000000-0123", revision), build{"v1.2.4-0.20260101000000-0123", "0123"}},
		{"go build -buildvcs=false", build{}, noted("(devel)"), build{"devel", "unknown"}},
		{"go test", build{}, noted(""), build{"devel", "unknown"}},
		{"the version alone is stamped", build{version: "v1.2.3"}, noted("(devel)", revision), build{"v1.2.3", "0123"}},
		{"a binary that was not built in module mode", build{}, nil, build{"devel", "unknown"}},
	} {
		if got := tc.stamped.orNoted(tc.info); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.reason, got, tc.want)
		}
	}
}
