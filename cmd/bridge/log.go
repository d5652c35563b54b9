package main

import (
	"context"
	"io"
	"log/slog"

	"github.com/crbridge/crbridge/pkg/config"
)

func newLogger(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // config has checked it
	options := &slog.HandlerOptions{Level: level}
	if c.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
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
