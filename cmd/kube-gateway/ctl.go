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

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
)

const ctlHint = "see 'kube-gateway help' for the control commands"

// ctl talks to the gateway in this container; the plugin runs it by exec.
func ctl(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if len(args) == 0 {
		return api.WithHint(errors.New("no control command is given"), ctlHint)
	}
	command, ok := map[string]func(context.Context, *call, []string) error{
		"status": ctlStatus, "edges": ctlEdges, "metrics": ctlMetrics,
		"mode": ctlMode, "allow": ctlAllow, "cover": ctlCover, "log": ctlLog, "renew": ctlRenew,
		"trust": ctlTrust, "reset": ctlReset, "disable": ctlDisable,
		"hand-over": ctlHandOver, "take-over": ctlTakeOver,
	}[args[0]]
	if !ok {
		return api.WithHint(fmt.Errorf("unknown control command %q", args[0]), ctlHint)
	}
	return command(ctx, newCall(args[0], stdin, stdout), args[1:])
}

func ctlStatus(ctx context.Context, c *call, args []string) error {
	wait := c.flags.Duration("wait", 0, "wait so long for the gateway to be ready")
	if err := c.parseAll(args); err != nil {
		return err
	}
	return c.status(ctx, control.Request{Op: control.OpStatus, Wait: *wait})
}

// existing registers the flag that says what happens to connections that a change forbids.
func (c *call) existing(to *api.Existing) {
	c.flags.StringVar((*string)(to), "existing", string(api.ExistingLeave), "open connections that are forbidden from then on: leave or reset")
}

func ctlMode(ctx context.Context, c *call, args []string) error {
	r := control.Request{Op: control.OpMode}
	c.existing(&r.Existing)
	words, err := c.parse(args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return c.doesNotTake(words)
	}
	r.Mode = api.Mode(words[0])
	return c.status(ctx, r)
}

func ctlAllow(ctx context.Context, c *call, args []string) error {
	r := control.Request{Op: control.OpAllow}
	c.flags.BoolVar(&r.Everyone, "everyone", false, "allow everyone in the trust domain")
	c.flags.Func("deny", "deny what this rule matches; may be repeated", func(text string) error {
		r.Deny = append(r.Deny, text)
		return nil
	})
	c.flags.IntVar(&r.MaxPerPeer, "max-connections-per-peer", 0, "refuse further connections of an identity that has so many open; 0 is no bound")
	c.existing(&r.Existing)
	c.flags.BoolVar(&r.Audit, "audit", false, "log and count what the rules would refuse, and let it in")
	var err error
	if r.Allow, err = c.parse(args); err != nil {
		return err
	}
	return c.status(ctx, r)
}

// ctlCover reads an api.Cover as a line of JSON.
func ctlCover(ctx context.Context, c *call, args []string) error {
	if err := c.parseAll(args); err != nil {
		return err
	}
	var cover api.Cover
	if err := c.read(ctx, "the coverage", &cover); err != nil {
		return err
	}
	return c.status(ctx, control.Request{Op: control.OpCover, Cover: &cover})
}

func ctlLog(ctx context.Context, c *call, args []string) error {
	r := control.Request{Op: control.OpLog}
	c.flags.Int64Var(&r.LogLimit, "limit", 0, "bytes an hour; 0 leaves it as it is")
	words, err := c.parse(args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return c.doesNotTake(words)
	}
	r.Log = api.Log(words[0])
	return c.status(ctx, r)
}

// call is one use of 'kube-gateway ctl'.
type call struct {
	flags  *flag.FlagSet
	output *string
	socket *string
	stdin  io.Reader
	stdout io.Writer
}

func newCall(name string, stdin io.Reader, stdout io.Writer) *call {
	flags := flag.NewFlagSet("ctl "+name, flag.ContinueOnError)
	return &call{
		flags:  flags,
		output: flags.String("o", "text", "output format: text or json"),
		socket: flags.String("control-socket", control.SocketPath, "path of the control socket"),
		stdin:  stdin,
		stdout: stdout,
	}
}

// parse parses flags before, between and behind other words, which it returns.
func (c *call) parse(args []string) (words []string, err error) {
	for {
		if err := c.flags.Parse(args); err != nil {
			return nil, err
		}
		if args = c.flags.Args(); len(args) == 0 {
			break
		}
		words, args = append(words, args[0]), args[1:]
	}
	if *c.output != "text" && *c.output != "json" {
		return nil, api.WithHint(fmt.Errorf("unknown output format %q", *c.output), "use -o text or -o json")
	}
	return words, nil
}

// parseAll parses flags, and refuses other words.
func (c *call) parseAll(args []string) error {
	words, err := c.parse(args)
	if err == nil && len(words) > 0 {
		err = c.doesNotTake(words)
	}
	return err
}

func (c *call) doesNotTake(words []string) error {
	return api.WithHint(fmt.Errorf("%s does not take %q", c.flags.Name(), words), ctlHint)
}

// current refuses words and asks for the status.
func (c *call) current(ctx context.Context, args []string) (status api.Status, err error) {
	if err = c.parseAll(args); err == nil {
		err = c.ask(ctx, control.Request{Op: control.OpStatus}, &status)
	}
	return status, err
}

// ask sends a request to the gateway and stores the answer in result.
func (c *call) ask(ctx context.Context, r control.Request, result any) error {
	return control.Call(ctx, *c.socket, r, result)
}

// status sends a request that is answered with a status, and prints that.
func (c *call) status(ctx context.Context, r control.Request) error {
	var status api.Status
	if err := c.ask(ctx, r, &status); err != nil {
		return err
	}
	return c.print(status, func(w io.Writer) { printStatus(w, &status) })
}

// print writes an answer as text, or as one line of JSON.
func (c *call) print(answer any, asText func(io.Writer)) error {
	if *c.output == "json" {
		return json.NewEncoder(c.stdout).Encode(answer)
	}
	asText(c.stdout)
	return nil
}

func printStatus(w io.Writer, s *api.Status) {
	fmt.Fprintf(w, "state       %s\n", s.State)
	if s.Reason != "" {
		fmt.Fprintf(w, "reason      %s\n", s.Reason)
	}
	fmt.Fprintf(w, "identity    %s\n", s.Identity)
	fmt.Fprintf(w, "mode        %s, on failure %s\n", s.Mode, s.OnFailure)
	fmt.Fprintf(w, "wire        %s\n", s.Wire)
	if s.Listeners != (api.Listeners{}) {
		fmt.Fprintf(w, "ports       %d and %d on loopback\n", s.Listeners.Capture, s.Listeners.Inband)
	}
	allow := "everyone in the trust domain"
	if len(s.Allow) > 0 {
		allow = strings.Join(s.Allow, " ")
	}
	fmt.Fprintf(w, "allow       %s\n", allow)
	if len(s.Deny) > 0 {
		fmt.Fprintf(w, "deny        %s\n", strings.Join(s.Deny, " "))
	}
	if s.MaxPerPeer > 0 {
		fmt.Fprintf(w, "per peer    at most %d connections\n", s.MaxPerPeer)
	}
	if s.Audit {
		fmt.Fprintf(w, "audit       %d connections would have been refused\n", s.Traffic.Inbound.Audited)
	}
	for _, missing := range s.Missing {
		fmt.Fprintf(w, "missing     %s\n", missing)
	}
	if m := s.Memory; m != nil {
		fmt.Fprintf(w, "memory      %d KiB used\n", m.Used>>10)
		if m.Limit > 0 {
			fmt.Fprintf(w, "limit       %d KiB, of which %d KiB are left, enough for about %d more connections\n", m.Limit>>10, m.Left>>10, m.Room)
		}
	}
	if s.Cert.Serial != "" {
		fmt.Fprintf(w, "certificate %s until %s\n", s.Cert.Serial, s.Cert.NotAfter.Format(time.RFC3339))
	}
	for _, d := range []struct {
		name string
		n    api.Direction
	}{{"outbound", s.Traffic.Outbound}, {"inbound", s.Traffic.Inbound}} {
		fmt.Fprintf(w, "%-11s %d encrypted, %d plaintext, %d refused, %d open\n",
			d.name, d.n.Encrypted, d.n.Plaintext, d.n.Refused, d.n.Active)
	}
	fmt.Fprintf(w, "log         %s, %d lines, %d dropped\n", s.Log.Level, s.Log.Lines, s.Log.DroppedLines)
	if s.Reset > 0 {
		fmt.Fprintf(w, "reset       %d\n", s.Reset)
	}
	if e := s.Existing; e != nil {
		fmt.Fprintf(w, "existing    %d outbound, %d inbound, %d reset\n", e.Outbound, e.Inbound, e.Reset)
	}
}
