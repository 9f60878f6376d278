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

// Default bounds of a recording: it ends even if its reader is gone without a signal.
const (
	recordDuration = time.Hour
	recordBytes    = 1 << 30
	// recordGrace is how long the end of a recording may wait for its reader.
	recordGrace = 5 * time.Second
)

// recordPackets writes the packets of the pod to stdout. The plugin runs it by exec.
// It ends with its input, a signal, or one of its bounds.
func recordPackets(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("packets", flag.ContinueOnError)
	var o sniff.Options
	flags.StringVar(&o.Interface, "interface", "", "record this interface only")
	flags.IntVar(&o.SnapLen, "snaplen", 0, "bytes of a packet to keep, 0 for all")
	flags.Int64Var(&o.MaxBytes, "max-bytes", recordBytes, "end at this size")
	duration := flags.Duration("duration", recordDuration, "end after this time")
	flags.Func("port", "record only TCP and UDP from or to this port; may be repeated", func(text string) error {
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
		return api.WithHint(fmt.Errorf("packets does not take %q", strings.Join(flags.Args(), " ")), "see 'kube-gateway help'")
	case o.MaxBytes <= 0 || *duration <= 0:
		return fmt.Errorf("a recording needs bounds: --max-bytes %d, --duration %s", o.MaxBytes, *duration)
	}
	o.Application = "kube-gateway " + version.String()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	go func() {
		// Any byte ends the recording, as the end of the input does.
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
	case <-time.After(recordGrace):
		return errors.New("nobody reads the packets")
	}
}
