//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// rawWatch reads the API server's watch of the objects as it comes over the
// wire, and gives each frame, a line of JSON, to a function. Nothing is decoded.
// That is as fast as events can be had from the API server by one watch.
type rawWatch struct {
	client *http.Client
	url    string
	from   string // resource version
	frame  func(line []byte)
}

// newRawWatch watches from now on.
func newRawWatch(ctx context.Context, config *rest.Config, frame func([]byte)) (*rawWatch, error) {
	// With a connection of its own: client-go's clients share one where their
	// configurations are the same, and this is not to wait for what others write.
	own := rest.CopyConfig(config)
	own.Dial = (&net.Dialer{}).DialContext
	client, err := rest.HTTPClientFor(own)
	if err != nil {
		return nil, err
	}
	lister, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	list, err := lister.Resource(resource).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	return &rawWatch{
		client: client, from: list.GetResourceVersion(), frame: frame,
		url: fmt.Sprintf("%s/apis/%s/%s/%s?watch=true&resourceVersion=", config.Host, resource.Group, resource.Version, resource.Resource),
	}, nil
}

// run reads until ctx ends, and goes on where the API server has closed a watch,
// or its connection, as it does where its reader was stopped for long.
func (w *rawWatch) run(ctx context.Context) error {
	defer w.client.CloseIdleConnections()
	for lost := false; ctx.Err() == nil; {
		err := w.once(ctx)
		var request *url.Error
		if err != nil && (lost || !errors.As(err, &request)) {
			return err
		}
		lost = err != nil // the next request has a connection of its own
	}
	return nil
}

func (w *rawWatch) once(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+w.from, nil)
	if err != nil {
		return err
	}
	response, err := w.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return fmt.Errorf("watch: %s: %s", response.Status, body)
	}
	last, err := eachFrame(response.Body, w.frame)
	if err != nil {
		return err
	}
	if len(last) == 0 {
		return nil
	}
	var event struct {
		Type   string
		Object struct {
			metav1.ObjectMeta `json:"metadata"`
		}
	}
	if err := json.Unmarshal(last, &event); err != nil {
		return fmt.Errorf("a watch ended with %.200q: %w", last, err)
	}
	if event.Object.ResourceVersion == "" {
		return fmt.Errorf("a watch ended with %.500s", last)
	}
	w.from = event.Object.ResourceVersion
	return nil
}

// eachFrame gives each whole line to the function, which may have it until it
// returns, and returns the last. A stream that is cut off is no error.
func eachFrame(from io.Reader, frame func([]byte)) (last []byte, err error) {
	reader := bufio.NewReaderSize(from, 64<<10)
	var long []byte // the beginning of a line that is longer than the buffer
	for {
		line, err := reader.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, line...)
			continue
		}
		if err != nil {
			return last, nil //nolint:nilerr // watches end so, some time
		}
		if len(long) > 0 {
			long = append(long, line...)
			line, long = long, long[:0]
		}
		frame(line)
		last = append(last[:0], line...)
	}
}

// versionOf finds the object's resource version in a frame. It is the first key
// of that name: what comes before in an API server's JSON has none.
func versionOf(line []byte) (uint64, error) {
	_, rest, _ := bytes.Cut(line, []byte(`"resourceVersion":"`))
	digits, _, found := bytes.Cut(rest, []byte(`"`))
	if !found {
		return 0, fmt.Errorf("no resource version in %.500q", line)
	}
	return strconv.ParseUint(string(digits), 10, 64)
}

// watchWork counts frames and throws them away. It answers to /wait when it has
// counted as many since /expect?count=N as that said.
func watchWork(ctx context.Context, s settings, mux *http.ServeMux, ready func()) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	var counted, wanted atomic.Int64
	reached := make(chan struct{}, 1)
	watch, err := newRawWatch(ctx, config, func([]byte) {
		if counted.Add(1) == wanted.Load() {
			reached <- struct{}{}
		}
	})
	if err != nil {
		return err
	}
	mux.HandleFunc("GET /expect", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("count"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		wanted.Store(counted.Load() + n)
	})
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-reached:
		case <-r.Context().Done():
		case <-time.After(10 * time.Minute):
			http.Error(w, fmt.Sprintf("%d frames, want %d", counted.Load(), wanted.Load()), http.StatusGatewayTimeout)
		}
	})
	ready()
	return watch.run(ctx)
}
