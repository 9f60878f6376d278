//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
)

const (
	// maxInput bounds the line that a command reads, in bytes: less than the
	// control socket takes, more than any bundle that a gateway accepts.
	maxInput = 512 << 10
	// inputTimeout bounds the wait for the line: a gateway keeps a new key no longer.
	inputTimeout = 5 * time.Minute
	// startWait is for a gateway whose container has just started: the plugin delivers its
	// first certificate as soon as it runs.
	startWait = 10 * time.Second
	// defaultDrain is how long 'ctl disable' lets connections end by themselves.
	defaultDrain = 30 * time.Second
)

// ctlRenew prints the gateway's request for a certificate as a line of JSON,
// reads the certificate as another, and prints the status.
func ctlRenew(ctx context.Context, c *call, r control.Request) error {
	var request api.CertificateRequest
	if err := c.ask(ctx, control.Request{Op: control.OpCSR, Wait: startWait}, &request); err != nil {
		return err
	}
	if err := json.NewEncoder(c.stdout).Encode(request); err != nil {
		return fmt.Errorf("printing the certificate request: %w", err)
	}
	r.Issued, r.Wait = new(api.IssuedCertificate), startWait
	if err := c.read(ctx, "the certificate", r.Issued); err != nil {
		return err
	}
	return c.status(ctx, r)
}

// ctlStarted is the startup probe of a sidecar: the kubelet shows what it prints when it fails.
func ctlStarted(ctx context.Context, c *call, r control.Request) error {
	var status api.Status
	return c.ask(ctx, r, &status)
}

func ctlDisable(ctx context.Context, c *call, r control.Request) error {
	if r.DrainTimeout < 0 {
		return api.WithHint(fmt.Errorf("drain timeout %v is negative", r.DrainTimeout), "0 resets what is open at once")
	}
	var report api.DisableReport
	return control.CallAndUse(ctx, *c.socket, r, &report, func() error {
		return c.print(report, func(w io.Writer) {
			fmt.Fprintf(w, "disabled    %d connections drained, %d aborted\n", report.Drained, report.Aborted)
			for _, left := range report.Left {
				fmt.Fprintf(w, "left        %s\n", left)
			}
		})
	})
}

// ctlHandOver has the gateway wait for its successor, and prints how that finds it as a line of JSON.
func ctlHandOver(ctx context.Context, c *call, r control.Request) error {
	var h api.Handover
	if err := c.ask(ctx, r, &h); err != nil {
		return err
	}
	return json.NewEncoder(c.stdout).Encode(h)
}

// read stores one line of JSON from the input in to. It never waits for the end of the input,
// which an exec over WebSockets does not transmit.
func (c *call) read(ctx context.Context, what string, to any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, inputTimeout,
		fmt.Errorf("no input within %v", inputTimeout))
	defer cancel()
	done := make(chan error, 1)
	go func() {
		text, err := readLine(c.stdin, maxInput)
		if err == nil {
			err = json.Unmarshal(text, to)
		}
		done <- err
	}()
	var err error
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case err = <-done:
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", what, err)
	}
	return nil
}

// readLine reads a line of at most limit bytes, its end included.
func readLine(r io.Reader, limit int64) ([]byte, error) {
	text, err := bufio.NewReader(io.LimitReader(r, limit)).ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF) && int64(len(text)) == limit:
		return nil, fmt.Errorf("the line is longer than %d bytes", limit)
	case errors.Is(err, io.EOF):
		return nil, errors.New("the input ended before the line did")
	}
	return text, err
}
