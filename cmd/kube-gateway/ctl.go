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

// command is one control command.
type command struct {
	op string
	// words is how many words it takes, anyWords for any, and take stores them in its request.
	words int
	take  func(r *control.Request, words []string)
	// flags, if not nil, registers flags that are stored in the request.
	flags func(f *flag.FlagSet, r *control.Request)
	// input, if not nil, is where in the request a line of JSON from the standard input goes; what
	// names it.
	what  string
	input func(r *control.Request) any
	// run carries out the request. By default the answer is a status, which is printed.
	run func(ctx context.Context, c *call, r control.Request) error
}

const anyWords = -1

func commands() map[string]command {
	return map[string]command{
		"status": {op: control.OpStatus, flags: func(f *flag.FlagSet, r *control.Request) {
			f.DurationVar(&r.Wait, "wait", 0, "wait so long for the gateway to be ready")
		}},
		"started": {op: control.OpStarted, flags: func(f *flag.FlagSet, r *control.Request) {
			f.DurationVar(&r.Wait, "wait", 0, "wait so long for the gateway to serve")
			f.DurationVar(&r.PassAfter, "pass-after", 0, "succeed after so long in any case; 0 is never")
		}, run: ctlStarted},
		"edges":   {op: control.OpStatus, run: ctlEdges},
		"metrics": {op: control.OpStatus, run: ctlMetrics},
		"mode": {op: control.OpMode, words: 1, flags: existingFlag,
			take: func(r *control.Request, words []string) { r.Mode = api.Mode(words[0]) }},
		"allow": {op: control.OpAllow, words: anyWords, flags: allowFlags,
			take: func(r *control.Request, words []string) { r.Allow = words }},
		"log": {op: control.OpLog, words: 1, take: func(r *control.Request, words []string) { r.Log = api.Log(words[0]) },
			flags: func(f *flag.FlagSet, r *control.Request) {
				f.Int64Var(&r.LogLimit, "limit", 0, "bytes an hour; 0 leaves it as it is")
			}},
		"cover": {op: control.OpCover, what: "the coverage", input: func(r *control.Request) any { r.Cover = new(api.Cover); return r.Cover }},
		"trust": {op: control.OpTrust, what: "the trust bundle", input: func(r *control.Request) any { r.Trust = new(api.TrustBundle); return r.Trust }},
		"renew": {op: control.OpCertificate, run: ctlRenew},
		"reset": {op: control.OpReset},

		"disable":   {op: control.OpDisable, flags: drainFlag, run: ctlDisable},
		"hand-over": {op: control.OpHandOver, flags: drainFlag, run: ctlHandOver},
		// It reads what hand-over printed in the other gateway's container, and prints the status once
		// the gateway serves.
		"take-over": {op: control.OpTakeOver, what: "what the other gateway said", input: func(r *control.Request) any { r.Handover = new(api.Handover); return r.Handover }},
	}
}

// ctl talks to the gateway in this container; the plugin runs it by exec.
func ctl(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if len(args) == 0 {
		return api.WithHint(errors.New("no control command is given"), ctlHint)
	}
	command, ok := commands()[args[0]]
	if !ok {
		return api.WithHint(fmt.Errorf("unknown control command %q", args[0]), ctlHint)
	}
	c, r := newCall(args[0], stdin, stdout), control.Request{Op: command.op}
	if command.flags != nil {
		command.flags(c.flags, &r)
	}
	words, err := c.parse(args[1:])
	if err != nil {
		return err
	}
	if command.words != anyWords && len(words) != command.words {
		return api.WithHint(fmt.Errorf("%s does not take %q", c.flags.Name(), words), ctlHint)
	}
	if command.take != nil {
		command.take(&r, words)
	}
	if command.input != nil {
		if err := c.read(ctx, command.what, command.input(&r)); err != nil {
			return err
		}
	}
	if command.run != nil {
		return command.run(ctx, c, r)
	}
	return c.status(ctx, r)
}

// existingFlag says what happens to connections that a change forbids.
func existingFlag(f *flag.FlagSet, r *control.Request) {
	f.StringVar((*string)(&r.Existing), "existing", string(api.ExistingLeave), "open connections that are forbidden from then on: leave or reset")
}

func allowFlags(f *flag.FlagSet, r *control.Request) {
	f.BoolVar(&r.Everyone, "everyone", false, "allow everyone in the trust domain")
	f.Func("deny", "deny what this rule matches; may be repeated", func(text string) error {
		r.Deny = append(r.Deny, text)
		return nil
	})
	f.IntVar(&r.MaxPerPeer, "max-connections-per-peer", 0, "refuse further connections of an identity that has so many open; 0 is no bound")
	f.BoolVar(&r.Audit, "audit", false, "log and count what the rules would refuse, and let it in")
	existingFlag(f, r)
}

func drainFlag(f *flag.FlagSet, r *control.Request) {
	f.DurationVar(&r.DrainTimeout, "drain-timeout", defaultDrain, "let connections end by themselves for so long")
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

// landlock names what keeps a worker from files.
func landlock(c api.Confinement) string {
	if c.Landlock == 0 {
		return "no Landlock in this kernel"
	}
	return fmt.Sprintf("Landlock ABI %d", c.Landlock)
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
	if c := s.Worker.Confinement; c.Seccomp {
		fmt.Fprintf(w, "confined    a filter of system calls, %s\n", landlock(c))
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
