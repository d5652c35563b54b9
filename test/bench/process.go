//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/crbridge/crbridge/test/process"
)

// measured is a process that is measured. It serves Go's profiles and
// Prometheus' metrics of itself, as the bridge does; what it uses of the machine
// is asked of the kernel.
type measured struct {
	*process.Process
	server string    // base URL
	began  time.Time // when it was started
}

// memory is what a process has of the machine's, in bytes.
type memory struct{ resident, peak float64 }

// memoryOf reads VmRSS and VmHWM.
func memoryOf(pid int) (memory, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	return parseMemory(content)
}

func parseMemory(status []byte) (m memory, err error) {
	for field, into := range map[string]*float64{"VmRSS:": &m.resident, "VmHWM:": &m.peak} {
		_, rest, found := bytes.Cut(status, []byte("\n"+field))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		words := bytes.Fields(line)
		if !found || len(words) != 2 || string(words[1]) != "kB" {
			return memory{}, fmt.Errorf("%s is %q, want a number of kB", field, line)
		}
		kib, err := strconv.ParseUint(string(words[0]), 10, 53)
		if err != nil {
			return memory{}, fmt.Errorf("%s: %w", field, err)
		}
		*into = float64(kib) * 1024
	}
	return m, nil
}

// cpu is the CPU time that the process has used so far.
func (m *measured) cpu() (time.Duration, error) { return process.CPU(m.PID()) }

// settled waits until the process has given back what it does not need, and
// returns what it has then: until its resident memory has shrunk by less than
// one percent in five seconds, for 10 seconds at least and 20 at most. The bridge does so three
// seconds after its flows have settled.
func (m *measured) settled(ctx context.Context) (memory, error) {
	const step, patience = 5 * time.Second, 4
	last, err := memoryOf(m.PID())
	for i := 0; i < patience && err == nil; i++ {
		if err := pause(ctx, step); err != nil {
			return memory{}, err
		}
		before := last.resident
		if last, err = memoryOf(m.PID()); i > 0 && last.resident > before*0.99 {
			break
		}
	}
	return last, err
}

// heap is what is live of the heap after a collection, in bytes.
func (m *measured) heap(ctx context.Context) (float64, error) {
	for range 2 { // what has a finalizer, or is in a pool, takes two
		if _, err := get(ctx, m.server+"/debug/pprof/heap?gc=1"); err != nil {
			return 0, err
		}
	}
	return m.metric(ctx, "go_memstats_heap_alloc_bytes")
}

// metric is the value of a metric of the process without labels.
func (m *measured) metric(ctx context.Context, name string) (float64, error) {
	body, err := get(ctx, m.server+"/metrics")
	if err != nil {
		return 0, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("%s/metrics: %w", m.server, err)
	}
	family := families[name]
	if len(family.GetMetric()) != 1 {
		return 0, fmt.Errorf("%s/metrics: %d samples of %s, want 1", m.server, len(family.GetMetric()), name)
	}
	sample := family.GetMetric()[0]
	if family.GetType() == dto.MetricType_COUNTER {
		return sample.GetCounter().GetValue(), nil
	}
	return sample.GetGauge().GetValue(), nil
}

// profile saves a profile of the process, such as heap, under that name.
func (m *measured) profile(ctx context.Context, dir, path, name string) error {
	body, err := get(ctx, m.server+"/debug/pprof/"+path)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), body, 0o644)
}

// close ends the process as a user would. What it says where that fails is in
// the error.
func (m *measured) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		return err
	}
	if code := m.ExitCode(); code != 0 {
		return fmt.Errorf("exit status %d after SIGTERM\n%s", code, m.LogTail())
	}
	return nil
}

// client is that of everything that is asked over HTTP on loopback.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}

// get returns what is at url.
func get(ctx context.Context, url string) (_ []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.500s", url, response.Status, body)
	}
	return body, err
}

// pause waits for that long.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// until asks again and again whether it is so, with a pause between.
func until(ctx context.Context, every time.Duration, so func() (bool, error)) error {
	for {
		if is, err := so(); is || err != nil {
			return err
		}
		if err := pause(ctx, every); err != nil {
			return err
		}
	}
}
