//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/control"
)

const ctlHint = "use 'kube-gateway ctl status', 'ctl mode strict|permissive' or 'ctl allow PATTERN...|--everyone'"

// ctl talks to the gateway in this container; the plugin runs it by exec. Every
// command prints the status, after what it changed.
func ctl(ctx context.Context, args []string, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if len(args) == 0 {
		return api.WithHint(errors.New("no control command is given"), ctlHint)
	}
	flags := flag.NewFlagSet("ctl "+args[0], flag.ContinueOnError)
	output := flags.String("o", "text", "output format: text or json")
	socket := flags.String("control-socket", control.SocketPath, "path of the control socket")
	request := control.Request{Op: args[0]}
	switch args[0] {
	case control.OpStatus:
		flags.DurationVar(&request.Wait, "wait", 0, "wait so long for the gateway to be ready")
	case control.OpMode:
	case control.OpAllow:
		flags.BoolVar(&request.Everyone, "everyone", false, "allow everyone in the trust domain")
	default:
		return api.WithHint(fmt.Errorf("unknown control command %q", args[0]), ctlHint)
	}
	words, err := parseMixed(flags, args[1:])
	if err != nil {
		return err
	}
	switch {
	case *output != "text" && *output != "json":
		return api.WithHint(fmt.Errorf("unknown output format %q", *output), "use -o text or -o json")
	case request.Op == control.OpMode && len(words) == 1:
		request.Mode = api.Mode(words[0])
	case request.Op == control.OpAllow:
		request.Allow = words
	case request.Op == control.OpMode || len(words) > 0:
		return api.WithHint(fmt.Errorf("ctl %s does not take %q", request.Op, words), ctlHint)
	}
	var status api.Status
	if err := control.Call(ctx, *socket, request, &status); err != nil {
		return err
	}
	if *output == "text" {
		printStatus(stdout, &status)
		return nil
	}
	encoder := json.NewEncoder(stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(status)
}

// parseMixed parses flags that stand before, between and behind other words,
// which it returns.
func parseMixed(flags *flag.FlagSet, args []string) (words []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) == 0 {
			return words, nil
		}
		words, args = append(words, args[0]), args[1:]
	}
}

func printStatus(w io.Writer, s *api.Status) {
	fmt.Fprintf(w, "state       %s\n", s.State)
	if s.Reason != "" {
		fmt.Fprintf(w, "reason      %s\n", s.Reason)
	}
	fmt.Fprintf(w, "identity    %s\n", s.Identity)
	fmt.Fprintf(w, "mode        %s, on failure %s\n", s.Mode, s.OnFailure)
	fmt.Fprintf(w, "wire        %s\n", s.Wire)
	allow := "everyone in the trust domain"
	if len(s.Allow) > 0 {
		allow = strings.Join(s.Allow, " ")
	}
	fmt.Fprintf(w, "allow       %s\n", allow)
	for _, missing := range s.Missing {
		fmt.Fprintf(w, "missing     %s\n", missing)
	}
	fmt.Fprintf(w, "certificate until %s\n", s.Cert.NotAfter.Format(time.RFC3339))
	for _, d := range []struct {
		name string
		n    api.Direction
	}{{"outbound", s.Traffic.Outbound}, {"inbound", s.Traffic.Inbound}} {
		fmt.Fprintf(w, "%-11s %d encrypted, %d plaintext, %d refused, %d open\n",
			d.name, d.n.Encrypted, d.n.Plaintext, d.n.Refused, d.n.Active)
	}
}
