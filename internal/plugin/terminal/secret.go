package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
)

// ErrInterrupted means that the user has pressed Ctrl-C at a question.
var ErrInterrupted = errors.New("interrupted")

// ReadSecret asks question on out, and reads a line from tty without showing it. The terminal is as it was when
// ReadSecret returns, also when ctx ends. Ctrl-C is [ErrInterrupted]: the terminal sends no signal meanwhile.
func ReadSecret(ctx context.Context, tty *os.File, out io.Writer, question string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	// Raw mode is set before anything is read, so that there is no moment in which an interruption leaves
	// the terminal without an echo.
	was, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return "", fmt.Errorf("turning the terminal's echo off: %w", err)
	}
	typed := &typing{tty: tty, out: out}
	var text string
	var readErr error
	// Reading a terminal does not end with a context: an interrupted command abandons the reader.
	err = parallel.Until(ctx, func() { text, readErr = term.NewTerminal(typed, "").ReadPassword(question) })
	if restored := term.Restore(int(tty.Fd()), was); restored != nil && err == nil {
		err = fmt.Errorf("turning the terminal's echo on: %w", restored)
	}
	switch {
	case err != nil:
		fmt.Fprintln(out)
		return "", err
	case typed.interrupted:
		fmt.Fprintln(out)
		return "", ErrInterrupted
	case readErr == io.EOF:
		fmt.Fprintln(out)
		return "", errors.New("nothing was typed")
	}
	return text, readErr
}

// typing is a terminal in raw mode that notices Ctrl-C.
type typing struct {
	tty         io.Reader
	out         io.Writer
	interrupted bool
}

func (t *typing) Read(p []byte) (int, error) {
	n, err := t.tty.Read(p)
	for _, b := range p[:n] {
		// term.Terminal takes it for the end of the input.
		t.interrupted = t.interrupted || b == 3
	}
	return n, err
}

func (t *typing) Write(p []byte) (int, error) { return t.out.Write(p) }
