// Command kubectl-gateway is the plugin: kubectl runs it for "kubectl gateway".
// Each verb has a file of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"
)

func main() {
	// client-go logs what its errors say as well. A logger without a sink drops errors,
	// klog without an output does not.
	klog.SetLogger(klog.Logger{})
	setGCPercent(briefGCPercent)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the program at once, without a clean-up.
	context.AfterFunc(ctx, stop)
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	os.Exit(run(ctx, streams, os.Args[1:]))
}

// Commands end within seconds: with the usual heap a tenth of their processor time was that of the garbage collector.
const (
	briefGCPercent = 400
	usualGCPercent = 100 // Go's own
)

// setGCPercent is debug.SetGCPercent, unless GOGC says otherwise.
func setGCPercent(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// errReported ends a command with exit code 1 after its errors were printed.
var errReported = errors.New("already reported")

// run executes one command line and returns its exit code.
func run(ctx context.Context, streams genericiooptions.IOStreams, args []string) int {
	root := newRootCommand(streams)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return exitCode(err)
	case ctx.Err() != nil:
		fmt.Fprintln(streams.ErrOut, "interrupted")
		return 130 // 128 + SIGINT, as shells report it
	}
	printErrors(streams.ErrOut, err, usage(cmd))
	return exitCode(err)
}

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

func (e *exitError) Unwrap() error { return e.error }

// exitWith wraps err, so that the program exits with code. A nil err stays nil.
func exitWith(code int, err error) error {
	if err == nil {
		return nil
	}
	return &exitError{err, code}
}

// exitCode returns the exit code for an error, 1 unless it has one of its own.
func exitCode(err error) int {
	if own, ok := errors.AsType[*exitError](err); ok {
		return own.code
	}
	return 1
}
