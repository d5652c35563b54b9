package status

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/crbridge/crbridge/pkg/flow"
)

const (
	// mostStreams bounds how many pages are kept up to date at a time; what one
	// of them shows is kept for each, at most perPage rows.
	mostStreams = 32
	// updateEvery is how often a page is brought up to date, at most, and
	// eventsEvery how often it is told of events.
	updateEvery = time.Second
	eventsEvery = 250 * time.Millisecond
	// mostEvents is how many events a page is told of at a time; it could not
	// be read faster.
	mostEvents = 50
	// mostTaken is how many deliveries are taken from the tap in one go, while
	// flows wait, and mostTakes how often that is done for one message.
	mostTaken = 128
	mostTakes = 64
	// quietFor is how long nothing is sent before a sign of life is, and
	// writeTimeout how long a reader may leave something unread.
	quietFor     = 15 * time.Second
	writeTimeout = 10 * time.Second
)

// streams are the pages that are kept up to date, by server-sent events.
type streams struct {
	mu    sync.Mutex
	open  int
	over  bool
	ended chan struct{} // closed when they have to end; made by the first
}

// enter takes a place, and tells what ends it.
func (s *streams) enter() (ended <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.open >= mostStreams {
		return nil, false
	}
	if s.ended == nil {
		s.ended = make(chan struct{})
	}
	s.open++
	return s.ended, true
}

func (s *streams) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

// EndStreams ends what pages are kept up to date by, which a server that shuts
// down would wait for otherwise. There are none from then on.
func (b *Bridge) EndStreams() {
	s := &b.streams
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over && s.ended != nil {
		close(s.ended)
	}
	s.over = true
}

// limited serves a stream where there is a place for one more.
func (s *streams) limited(serve func(*stream)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ended, ok := s.enter()
		if !ok {
			w.Header().Set("Retry-After", "30")
			http.Error(w, "too many pages are open already; this one shows how things were when it was loaded", http.StatusServiceUnavailable)
			return
		}
		defer s.leave()
		h := w.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("X-Accel-Buffering", "no") // nginx would keep it until it is full
		serve(&stream{w: w, r: r, control: http.NewResponseController(w), ended: ended})
	}
}

// stream is one page's.
type stream struct {
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	ended   <-chan struct{}
	wrote   time.Time
}

// write tells whether the reader is still there.
func (s *stream) write(text string) bool {
	s.wrote = time.Now()
	if s.control.SetWriteDeadline(s.wrote.Add(writeTimeout)) != nil {
		return false
	}
	if _, err := s.w.Write([]byte(text)); err != nil {
		return false
	}
	return s.control.Flush() == nil
}

// begin begins the answer, at which the page says that it is live: what it is to
// be told of from then on is to be looked for already.
func (s *stream) begin() bool { return s.write("retry: 2000\n\n") }

func (s *stream) send(message any) bool {
	content, err := json.Marshal(message) // which has no line breaks
	return err == nil && s.write("data: "+string(content)+"\n\n")
}

// wait waits for that, and tells whether the stream goes on.
func (s *stream) wait(c <-chan time.Time) bool {
	select {
	case <-c:
		return time.Since(s.wrote) < quietFor || s.write(": still here\n\n")
	case <-s.ended:
	case <-s.r.Context().Done():
	}
	return false
}

// liveStatus sends what has changed of the page at /.
func (b *Bridge) liveStatus(s *stream) {
	q := parseQuery(s.r.URL.Query())
	ticker := time.NewTicker(updateEvery)
	defer ticker.Stop()
	var sent *view
	for ok := s.begin(); ok; ok = s.wait(ticker.C) {
		now := b.view(q)
		if changes := now.since(sent); changes != nil && !s.send(changes) {
			return
		}
		sent = now
	}
}

// liveEvent is a line of the live view.
type liveEvent struct {
	Time   string `json:"time"`
	Type   string `json:"type"`
	CRD    string `json:"crd"`
	Object string `json:"object"`
	Route  string `json:"route"`
	Sink   string `json:"sink"`
	Lag    string `json:"lag"`
}

// liveEvents sends what is delivered, as far as a person could follow.
func (b *Bridge) liveEvents(s *stream) {
	wanted := newTerms(parseQuery(s.r.URL.Query()).text)
	viewer := b.Tap.View()
	defer viewer.Close()
	ticker := time.NewTicker(eventsEvery)
	defer ticker.Stop()
	taken := make([]flow.Delivery, mostTaken)
	if !s.begin() {
		return
	}
	for s.wait(ticker.C) {
		deliveries, missed := look(viewer, wanted, taken)
		if len(deliveries) == 0 && missed == 0 {
			continue
		}
		message := struct {
			Events []liveEvent `json:"events,omitempty"`
			Missed int         `json:"missed,omitempty"`
		}{Missed: missed}
		for i := range deliveries {
			d := &deliveries[i]
			kind := string(d.Type)
			if d.Inferred {
				kind += ", inferred"
			}
			message.Events = append(message.Events, liveEvent{
				Time: d.Durable.UTC().Format("15:04:05.000"), Type: kind, CRD: d.CRD, Object: d.Object, Route: d.Route, Sink: d.Sink,
				Lag: seconds(d.Durable.Sub(d.Observed).Seconds()),
			})
		}
		if !s.send(message) {
			return
		}
	}
}

// look takes what was delivered: the newest of what is wanted, and how many
// deliveries beyond those could not be shown. It is looked through here, and not
// where flows deliver, so that no filter costs them anything.
func look(viewer *flow.Viewer, wanted terms, taken []flow.Delivery) (found []flow.Delivery, missed int) {
	for range mostTakes {
		n, more := viewer.Take(taken)
		missed += more
		for i := range taken[:n] {
			if d := &taken[i]; wanted.matches(d.CRD, d.Object, d.Route, d.Sink, string(d.Type)) {
				found = append(found, *d)
			}
		}
		if over := len(found) - mostEvents; over > 0 {
			found, missed = slices.Delete(found, 0, over), missed+over
		}
		if n < len(taken) {
			break
		}
	}
	return found, missed
}
