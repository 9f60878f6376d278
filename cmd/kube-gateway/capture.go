//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/sniff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/version"
)

// Bounds of a capture that is not told any: it must end also if whoever started it
// is gone and nothing tells.
const (
	captureDuration = time.Hour
	captureBytes    = 1 << 30
	// captureGrace is how long the end of a capture may wait for its reader.
	captureGrace = 5 * time.Second
)

// runCapture writes the packets of the pod to stdout. The plugin runs it by exec. It
// ends with its input, a signal, or one of its bounds.
func runCapture(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("capture", flag.ContinueOnError)
	var o sniff.Options
	flags.StringVar(&o.Interface, "interface", "", "capture on this interface only")
	flags.IntVar(&o.SnapLen, "snaplen", 0, "bytes of a packet to keep, 0 for all")
	flags.Int64Var(&o.MaxBytes, "max-bytes", captureBytes, "end when the capture is so long")
	duration := flags.Duration("duration", captureDuration, "end after so long")
	flags.Func("port", "capture only TCP and UDP from or to this port; may be repeated", func(text string) error {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return fmt.Errorf("%q is not a port", text)
		}
		o.Ports = append(o.Ports, uint16(port))
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return api.WithHint(fmt.Errorf("capture does not take %q", strings.Join(flags.Args(), " ")), "see 'kube-gateway help'")
	case o.MaxBytes <= 0 || *duration <= 0:
		return fmt.Errorf("a capture needs bounds: --max-bytes %d, --duration %s", o.MaxBytes, *duration)
	}
	o.Application = "kube-gateway " + version.String()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	go func() {
		// What it says does not matter, only that it ends or says something.
		_, _ = stdin.Read(make([]byte, 1))
		cancel()
	}()
	done := make(chan error, 1)
	go func() { done <- sniff.Run(ctx, stdout, o) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(captureGrace):
		return errors.New("nobody reads the capture")
	}
}
