package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/verify"
)

// exitInconclusive is the exit code if nothing is proven, and of errors: an error must
// not look like plaintext.
const exitInconclusive = 2

// verifyOptions are the flags of verify.
type verifyOptions struct {
	output  string
	port    uint16
	timeout time.Duration
}

func newVerifyCommand(a *app) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify FROM [TO]",
		Short: "Prove on the wire that two pods talk encrypted",
		Long: `Sends a random text, the canary, over a new connection from one pod to another,
and records the packets of both pods. The canary must appear on loopback, between
application and gateway, or the recording proves nothing. It must never appear on the
pods' network interfaces: there, the connection of the two gateways must be TLS records
and nothing else, with the version, key exchange and cipher that the gateways report.

Without TO the peer is a pod of the same namespace with a gateway, on another node if
possible. A workload as FROM means each of its present pods, as TO one of them. The
canary goes to a temporary listener and not to an application. With --port, or if TO
has no gateway, it goes to an application: at --port, or else at its first declared
TCP port.

The exit code is 0 if the connections were encrypted, 1 if the canary was readable on
the network, and 2 if nothing could be proven, with the reason.`,
		Example: `  # From one pod to another
  kubectl gateway verify pod/web-0 pod/db-0

  # Each pod of a Deployment, with a peer that is chosen
  kubectl gateway verify deploy/web

  # The port of an application, for programs
  kubectl gateway verify pod/web-0 pod/db-0 --port=5432 -o json`,
		ValidArgsFunction: a.completeTargets(enabled),
		Args: func(cmd *cobra.Command, args []string) error {
			return exitWith(exitInconclusive, cobra.RangeArgs(1, 2)(cmd, args))
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			err := o.run(cmd.Context(), a, args)
			if errors.As(err, new(*exitError)) || err == errPlaintext {
				return err
			}
			return exitWith(exitInconclusive, err)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exitWith(exitInconclusive, flags.Error(cmd, err)) })
	f := cmd.Flags()
	addOutput(f, &o.output, "", "json", "yaml", "kyaml")
	flags.Parsed(f, &o.port, "port", "port", "", "send the canary to the application at this port of TO", parsePort)
	addTimeout(f, &o.timeout, verify.DefaultTimeout, "how long one pair may take")
	return cmd
}

// errPlaintext ends the command after it reported plaintext.
var errPlaintext = fmt.Errorf("plaintext: %w", errReported)

// verifications is what verify prints with -o json and -o yaml.
type verifications struct {
	Kind  string           `json:"kind"`
	Items []*verify.Result `json:"items"`
}

func (o *verifyOptions) run(ctx context.Context, a *app, args []string) error {
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	found, err := a.find(ctx, &targets.Flags{}, args[:1])
	if err != nil {
		return err
	}
	from := sift(found, func(pod *corev1.Pod) bool {
		_, ok := installed.Current(pod)
		return !ok || installed.Leaving(pod)
	})
	if len(from) == 0 {
		return api.WithHint(fmt.Errorf("none of the pods of %s has a gateway", args[0]), "'kubectl gateway enable "+args[0]+"' adds them")
	}
	var to *targets.Selection
	if len(args) == 2 {
		if to, err = a.find(ctx, &targets.Flags{}, args[1:]); err != nil {
			return err
		}
	}
	v := verify.New(remote.NewClient(config, client))
	v.Port, v.Timeout = o.port, o.timeout
	list := verifications{Kind: "VerificationList"}
	failed := false
	for i := range from {
		var peer *corev1.Pod
		if to != nil {
			peer = peerOf(&from[i], to.Pods)
		} else if peer, err = verify.ChoosePeer(ctx, client, &from[i]); err != nil {
			return err
		}
		result, err := v.Verify(ctx, &from[i], peer)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = true
			printErrors(a.ErrOut, fmt.Errorf("verifying pod/%s -n %s with pod/%s -n %s: %w", from[i].Name, from[i].Namespace, peer.Name, peer.Namespace, err), adviceOnPod)
			continue
		}
		list.Items = append(list.Items, result)
		if o.output == "" {
			if err := printVerification(a.Out, terminal.For(a.Out, os.Getenv), result); err != nil {
				return fmt.Errorf("printing the result: %w", err)
			}
		}
	}
	if o.output != "" {
		if err := a.printAs("result", list, o.output); err != nil {
			return err
		}
	}
	return list.outcome(failed)
}

// outcome is the worst verdict: plaintext outweighs inconclusive.
func (l *verifications) outcome(failed bool) error {
	for _, r := range l.Items {
		switch r.Verdict {
		case verify.Plaintext:
			return errPlaintext
		case verify.Inconclusive:
			failed = true
		}
	}
	if failed {
		return exitWith(exitInconclusive, errReported)
	}
	return nil
}

// peerOf returns one of pods, if possible another one than pod and one with a gateway.
func peerOf(pod *corev1.Pod, pods []corev1.Pod) *corev1.Pod {
	chosen := &pods[0]
	for i := range pods {
		switch {
		case pods[i].UID == pod.UID:
		case installed.Runs(&pods[i]):
			return &pods[i]
		case chosen.UID == pod.UID:
			chosen = &pods[i]
		}
	}
	return chosen
}

// printVerification shows what was seen of two pods: the bytes on both sides, and
// the verdict. All text in it may come from elsewhere.
func printVerification(w io.Writer, style *terminal.Style, r *verify.Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", style.Paint(terminal.Strong, line(fmt.Sprintf("%s > %s at %v", &r.From, &r.To, r.Destination))))
	for _, s := range []*verify.Side{&r.From, &r.To} {
		printSide(&b, style, s)
	}
	if r.From.Identity != "" || r.To.Identity != "" {
		fmt.Fprintf(&b, "  identities  %s > %s\n", known(r.From.Identity), known(r.To.Identity))
	}
	if r.TLS.Version != "" {
		fmt.Fprintf(&b, "  wire        %s, %s\n", known(r.Wire), line(strings.Join([]string{r.TLS.Version, r.TLS.KeyExchange, r.TLS.Cipher}, ", ")))
	}
	switch r.Verdict {
	case verify.Encrypted:
		fmt.Fprintf(&b, "%s the canary was never readable on the network\n", style.Paint(terminal.Good, "√ encrypted:"))
	case verify.Plaintext:
		fmt.Fprintf(&b, "%s %s\n", style.Paint(terminal.Bad, "× plaintext:"), line(strings.Join(r.Reasons, "; ")))
	default:
		fmt.Fprintf(&b, "%s %s\n", style.Paint(terminal.Caution, "‼ inconclusive:"), line(strings.Join(r.Reasons, "; ")))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printSide(b *strings.Builder, style *terminal.Style, s *verify.Side) {
	if !s.Gateway {
		fmt.Fprintf(b, "  in %s no gateway runs that could look\n", line(s.String()))
		return
	}
	fmt.Fprintf(b, "  in %s, %d packets, %d dropped\n", line(s.String()), s.Packets, s.Dropped)
	printSighting(b, s.Loopback, style.Paint(terminal.Good, "the canary, readable as it must be"))
	printSighting(b, s.Network, style.Paint(terminal.Bad, "the canary, readable on the network"))
	printSighting(b, s.TLS, style.Paint(terminal.Good, fmt.Sprintf("one of %d TLS records of application data", s.Records)))
}

func printSighting(b *strings.Builder, s *verify.Sighting, what string) {
	if s == nil {
		return
	}
	fmt.Fprintf(b, "    %s: %s\n", line(fmt.Sprintf("%s %v > %v", s.Interface, s.Source, s.Destination)), what)
	for row := range strings.Lines(hex.Dump(s.Data)) {
		b.WriteString("      " + row)
	}
}

func known(text string) string {
	if text == "" {
		return "not known"
	}
	return line(text)
}
