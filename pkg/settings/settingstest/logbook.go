package settingstest

import (
	"bytes"
	"log/slog"
	"sync"
)

// LogBook keeps what is logged. The zero value is empty.
type LogBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Logger logs to the book, from the level on.
func (l *LogBook) Logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level}))
}

// Write implements io.Writer.
func (l *LogBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String is all that was logged so far.
func (l *LogBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
