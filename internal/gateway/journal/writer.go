//go:build linux

package journal

import (
	"io"
	"log/slog"
	"sync"
)

// Writer writes the lines of a process that logs little: it waits for its output.
type Writer struct {
	out    io.Writer
	mu     sync.Mutex
	ledger *Ledger
}

// NewWriter returns a Writer to out.
func NewWriter(out io.Writer, budget *Budget, by string) *Writer {
	w := &Writer{out: out}
	w.ledger = NewLedger(budget, by, w.report)
	return w
}

// Slog returns a logger of lines of a class.
func (w *Writer) Slog(class Class) *slog.Logger {
	return slog.New(slog.NewJSONHandler(lines{w, class}, nil))
}

// lines is a Writer for slog, which writes one line in each call.
type lines struct {
	w     *Writer
	class Class
}

func (l lines) Write(line []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if made, ok := l.w.ledger.Admit(l.class, line); ok {
		l.w.write(made)
	}
	return len(line), nil
}

func (w *Writer) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(w.ledger.Report(false))
}

func (w *Writer) write(line []byte) {
	if len(line) > 0 {
		// Errors of the log itself cannot be logged.
		_, _ = w.out.Write(line)
	}
}
