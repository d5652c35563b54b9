package status

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/crbridge/crbridge/pkg/flow"
)

const (
	// sampleEvery and samples make the charts those of the last five minutes.
	sampleEvery = 5 * time.Second
	samples     = 60
)

// history is what flows were like in the last minutes: for each of them two
// numbers for each sample, half a KiB. Flows that there are no more have none.
type history struct {
	mu    sync.Mutex
	flows map[flow.ID]*track
}

// track is one flow's. What it has of before the flow is zero.
type track struct {
	next int // where the next sample goes, and the oldest is
	rate [samples]float32
	lag  [samples]float32

	at        time.Time // of the last sample, with what was then
	delivered uint64
	waited    time.Duration
}

// keep takes samples until ctx is done.
func (h *history) keep(ctx context.Context, flows func() []flow.Status) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		h.sample(time.Now(), flows())
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *history) sample(now time.Time, flows []flow.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.flows
	h.flows = make(map[flow.ID]*track, len(flows))
	for i := range flows {
		f := &flows[i]
		t := before[f.ID]
		if t == nil || f.Delivered < t.delivered {
			t = &track{at: now, delivered: f.Delivered, waited: f.Waited} // it has begun, or begun anew
		}
		h.flows[f.ID] = t
		t.add(now, f)
	}
}

// add is a sample: how many events a second were delivered since the last, and
// how long they took. Where one has been waiting for longer, that.
func (t *track) add(now time.Time, f *flow.Status) {
	var rate, lag float64
	if events := f.Delivered - t.delivered; events > 0 {
		if passed := now.Sub(t.at).Seconds(); passed > 0 {
			rate = float64(events) / passed
		}
		lag = (f.Waited - t.waited).Seconds() / float64(events)
	}
	t.rate[t.next], t.lag[t.next] = float32(rate), float32(max(lag, f.Lag.Seconds()))
	t.next = (t.next + 1) % samples
	t.at, t.delivered, t.waited = now, f.Delivered, f.Waited
}

// of is what a flow was like, the oldest sample first; nothing where it is new.
func (h *history) of(id flow.ID) (rate, lag []float32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.flows[id]
	if t == nil {
		return nil, nil
	}
	in := func(ring *[samples]float32) []float32 {
		return slices.Concat(ring[t.next:], ring[:t.next])
	}
	return in(&t.rate), in(&t.lag)
}

// The charts' size, in their own units.
const (
	chartHeight = 24
	chartStep   = 2
	chartWidth  = samples * chartStep
)

// chart is an area under the values, as the path of an SVG. Where none of them
// is larger than least, that is its height: so the noise of a flow that is well
// does not look like trouble. A value that is not 0 can be seen; where there is
// none, there is nothing to be drawn.
func chart(values []float32, least float32) string {
	if peak(values) == 0 {
		return ""
	}
	top := least
	for _, v := range values {
		top = max(top, v)
	}
	var path strings.Builder
	path.WriteString("M0 " + strconv.Itoa(chartHeight))
	at, run := 0, 0
	flush := func() {
		if run > 0 {
			path.WriteString("h" + strconv.Itoa(run*chartStep))
			run = 0
		}
	}
	for _, v := range values {
		height := int(v / top * chartHeight)
		if v > 0 {
			height = max(height, 1)
		}
		if height != at {
			flush()
			path.WriteString("v" + strconv.Itoa(at-height))
			at = height
		}
		run++
	}
	flush()
	path.WriteString("V" + strconv.Itoa(chartHeight) + "z")
	return path.String()
}

// peak is the largest value.
func peak(values []float32) (top float32) {
	for _, v := range values {
		top = max(top, v)
	}
	return top
}
