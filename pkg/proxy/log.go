//go:build linux

package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// maxQueuedLog is how many bytes of log lines may wait for the writer: those of about two
// thousand connections.
const maxQueuedLog = 1 << 20

// Logger writes JSON lines to a writer that may be slow. Logging only appends to a bounded
// queue, which one goroutine writes in one call. Lines that find the queue full are dropped
// and counted, and a line of its own reports the count as soon as there is room.
type Logger struct {
	w       io.Writer
	slog    *slog.Logger
	wake    chan struct{}
	stopped chan struct{}

	mu      sync.Mutex
	queue   []byte
	dropped uint64
	closed  bool
}

// NewLogger starts a Logger that writes to w. Close ends it.
func NewLogger(w io.Writer) *Logger {
	l := &Logger{w: w, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	l.slog = slog.New(slog.NewJSONHandler(queueWriter{l}, nil))
	go l.run()
	return l
}

// Slog returns a structured logger for lines other than those of connections.
func (l *Logger) Slog() *slog.Logger { return l.slog }

// Connection logs the end of a connection. Time, Level and Message are filled
// in where they are empty.
func (l *Logger) Connection(c *api.Connection) {
	if c.Time.IsZero() {
		c.Time = time.Now()
	}
	c.Level = cmp.Or(c.Level, slog.LevelInfo.String())
	c.Message = cmp.Or(c.Message, api.ConnectionMessage)
	for _, text := range []*string{
		&c.Level, &c.Message, &c.Direction, &c.Peer, &c.Wire, &c.Reason, &c.Error,
		&c.TLS.Version, &c.TLS.KeyExchange, &c.TLS.Cipher,
	} {
		*text = bounded(*text)
	}
	line, err := json.Marshal(c)
	if err != nil {
		l.slog.Error("cannot write the line of a connection", "error", err.Error())
		return
	}
	l.enqueue(append(line, '\n'))
}

// maxLogText bounds each text of a connection's line, in bytes. An identity has at most 800;
// what strangers send in certificates has no other bound.
const maxLogText = 1 << 10

// bounded returns text, or its beginning with an ellipsis.
func bounded(text string) string {
	if len(text) <= maxLogText {
		return text
	}
	end := maxLogText - len("…")
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// Close writes the queue and ends the Logger; later lines are dropped. It returns ctx's error
// if ctx is done first.
func (l *Logger) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.signal()
	select {
	case <-l.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("writing the last log lines: %w", ctx.Err())
	}
}

func (l *Logger) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// enqueue appends one complete line.
func (l *Logger) enqueue(line []byte) {
	l.mu.Lock()
	if l.closed || len(l.queue)+len(line) > maxQueuedLog {
		l.dropped++
		l.mu.Unlock()
		return
	}
	l.queue = append(l.queue, line...)
	l.mu.Unlock()
	l.signal()
}

// run is the only place that writes to l.w. Two byte slices take turns as
// queue and batch.
func (l *Logger) run() {
	defer close(l.stopped)
	direct := slog.New(slog.NewJSONHandler(l.w, nil))
	var batch []byte
	for range l.wake {
		l.mu.Lock()
		batch, l.queue = l.queue, batch[:0]
		dropped, closed := l.dropped, l.closed
		l.dropped = 0
		l.mu.Unlock()
		if len(batch) > 0 {
			// Errors of the log itself cannot be logged.
			_, _ = l.w.Write(batch)
		}
		if dropped > 0 {
			direct.Warn("log lines dropped", "lines", dropped)
		}
		if closed {
			return
		}
	}
}

// queueWriter queues lines of slog, which writes one in each call.
type queueWriter struct{ l *Logger }

func (q queueWriter) Write(line []byte) (int, error) {
	q.l.enqueue(line)
	return len(line), nil
}
