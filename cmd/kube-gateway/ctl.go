//go:build linux

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/control"
)

// ctl talks to the gateway in this container; the plugin runs it by exec.
func ctl(ctx context.Context, args []string, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if len(args) == 0 || args[0] != "status" {
		return api.WithHint(fmt.Errorf("unknown control command %q", args), "use 'kube-gateway ctl status'")
	}
	flags := flag.NewFlagSet("ctl status", flag.ContinueOnError)
	output := flags.String("o", "text", "output format: text or json")
	wait := flags.Duration("wait", 0, "wait so long for the gateway to be ready")
	socket := flags.String("control-socket", control.SocketPath, "path of the control socket")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	var status api.Status
	if err := control.Call(ctx, *socket, control.Request{Op: control.OpStatus, Wait: *wait}, &status); err != nil {
		return err
	}
	switch *output {
	case "json":
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(status)
	case "text":
		printStatus(stdout, &status)
		return nil
	}
	return api.WithHint(fmt.Errorf("unknown output format %q", *output), "use -o text or -o json")
}

func printStatus(w io.Writer, s *api.Status) {
	fmt.Fprintf(w, "state       %s\n", s.State)
	if s.Reason != "" {
		fmt.Fprintf(w, "reason      %s\n", s.Reason)
	}
	fmt.Fprintf(w, "identity    %s\n", s.Identity)
	fmt.Fprintf(w, "mode        %s, on failure %s\n", s.Mode, s.OnFailure)
	fmt.Fprintf(w, "certificate until %s\n", s.Cert.NotAfter.Format(time.RFC3339))
	for _, d := range []struct {
		name string
		n    api.Direction
	}{{"outbound", s.Traffic.Outbound}, {"inbound", s.Traffic.Inbound}} {
		fmt.Fprintf(w, "%-11s %d encrypted, %d plaintext, %d refused, %d open\n",
			d.name, d.n.Encrypted, d.n.Plaintext, d.n.Refused, d.n.Active)
	}
}
