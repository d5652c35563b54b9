package main

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/crbridge/crbridge/internal/repeat"
	"github.com/crbridge/crbridge/pkg/config"
)

// loggers are what the bridge logs with. Level and format can change while it
// does.
type loggers struct {
	level   slog.LevelVar
	json    atomic.Bool
	repeats *repeat.Handler
	logger  *slog.Logger
}

// summed is how warnings and errors that repeat are summed up, and the changes
// of state of a flow or a sink that comes and goes. Ten are more than a CRD takes
// that is deleted and created again. There is room for each of a thousand flows
// that start together, and for what they warn of.
var summed = repeat.Options{
	Level: slog.LevelWarn, Window: time.Minute, Lines: 4000,
	Varying: []string{"object", "id", "bytes", "events", "subject", "reconcileID", "detail"},
	States:  []string{"state", "connected"}, Changes: 10,
}

func newLoggers(c config.Log, w io.Writer) *loggers {
	l := &loggers{}
	options := &slog.HandlerOptions{Level: &l.level}
	l.repeats = repeat.New(eitherHandler{&l.json, slog.NewTextHandler(w, options), slog.NewJSONHandler(w, options)}, summed)
	l.logger = slog.New(l.repeats)
	l.set(c)
	return l
}

// set changes level and format.
func (l *loggers) set(c config.Log) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // config has checked it
	l.level.Set(level)
	l.json.Store(c.Format == config.LogJSON)
}

// eitherHandler writes text or JSON, whichever is wanted at the moment.
type eitherHandler struct {
	asJSON     *atomic.Bool
	text, json slog.Handler
}

func (h eitherHandler) now() slog.Handler {
	if h.asJSON.Load() {
		return h.json
	}
	return h.text
}

func (h eitherHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.now().Enabled(ctx, l)
}

func (h eitherHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.now().Handle(ctx, r)
}

func (h eitherHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return eitherHandler{h.asJSON, h.text.WithAttrs(attrs), h.json.WithAttrs(attrs)}
}

func (h eitherHandler) WithGroup(name string) slog.Handler {
	return eitherHandler{h.asJSON, h.text.WithGroup(name), h.json.WithGroup(name)}
}

// quietStop is for the libraries' lines. It drops the one with which
// controller-runtime reports each clean stop of an elected leader as an error:
// releasing the lease is losing it.
type quietStop struct{ slog.Handler }

func (h quietStop) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "error received after stop sequence was engaged" {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h quietStop) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietStop{h.Handler.WithAttrs(attrs)}
}

func (h quietStop) WithGroup(name string) slog.Handler { return quietStop{h.Handler.WithGroup(name)} }
