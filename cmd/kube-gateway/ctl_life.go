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
func ctlRenew(ctx context.Context, c *call, args []string) error {
	if err := c.parseAll(args); err != nil {
		return err
	}
	var request api.CertificateRequest
	if err := c.ask(ctx, control.Request{Op: control.OpCSR, Wait: startWait}, &request); err != nil {
		return err
	}
	if err := json.NewEncoder(c.stdout).Encode(request); err != nil {
		return fmt.Errorf("printing the certificate request: %w", err)
	}
	var issued api.IssuedCertificate
	if err := c.read(ctx, "the certificate", &issued); err != nil {
		return err
	}
	return c.status(ctx, control.Request{Op: control.OpCertificate, Issued: &issued, Wait: startWait})
}

// ctlTrust reads a trust bundle as a line of JSON and prints the status.
func ctlTrust(ctx context.Context, c *call, args []string) error {
	if err := c.parseAll(args); err != nil {
		return err
	}
	var bundle api.TrustBundle
	if err := c.read(ctx, "the trust bundle", &bundle); err != nil {
		return err
	}
	return c.status(ctx, control.Request{Op: control.OpTrust, Trust: &bundle})
}

func ctlReset(ctx context.Context, c *call, args []string) error {
	if err := c.parseAll(args); err != nil {
		return err
	}
	return c.status(ctx, control.Request{Op: control.OpReset})
}

func ctlDisable(ctx context.Context, c *call, args []string) error {
	drain := c.flags.Duration("drain-timeout", defaultDrain, "let connections end by themselves for so long")
	if err := c.parseAll(args); err != nil {
		return err
	}
	if *drain < 0 {
		return api.WithHint(fmt.Errorf("drain timeout %v is negative", *drain), "0 resets what is open at once")
	}
	var report api.DisableReport
	request := control.Request{Op: control.OpDisable, DrainTimeout: *drain}
	return control.CallAndUse(ctx, *c.socket, request, &report, func() error {
		return c.print(report, func(w io.Writer) {
			fmt.Fprintf(w, "disabled    %d connections drained, %d aborted\n", report.Drained, report.Aborted)
			for _, left := range report.Left {
				fmt.Fprintf(w, "left        %s\n", left)
			}
		})
	})
}

// ctlHandOver has the gateway wait for its successor, and prints how that finds it as a line of JSON.
func ctlHandOver(ctx context.Context, c *call, args []string) error {
	drain := c.flags.Duration("drain-timeout", defaultDrain, "let connections end by themselves for so long")
	if err := c.parseAll(args); err != nil {
		return err
	}
	var h api.Handover
	if err := c.ask(ctx, control.Request{Op: control.OpHandOver, DrainTimeout: *drain}, &h); err != nil {
		return err
	}
	return json.NewEncoder(c.stdout).Encode(h)
}

// ctlTakeOver reads what ctlHandOver printed in the other gateway's container, and prints the status
// once the gateway serves.
func ctlTakeOver(ctx context.Context, c *call, args []string) error {
	if err := c.parseAll(args); err != nil {
		return err
	}
	var h api.Handover
	if err := c.read(ctx, "what the other gateway said", &h); err != nil {
		return err
	}
	return c.status(ctx, control.Request{Op: control.OpTakeOver, Handover: &h})
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
