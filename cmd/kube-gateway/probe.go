//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/probe"
)

// probeDuration bounds a probe that is not ended.
const probeDuration = time.Minute

// runProbe is an application of the pod for 'kubectl gateway verify': "listen IP"
// sends back what it receives, "connect IP:PORT" sends a line. It runs itself
// again outside of the gateway's cgroup, with --here.
func runProbe(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	here := flags.Bool("here", false, "stay in this cgroup (internal)")
	socket := flags.String("socket", control.SocketPath, "control socket of the gateway (internal)")
	duration := flags.Duration("duration", probeDuration, "end after so long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return api.WithHint(errors.New("probe takes a verb and an address"), "see 'kube-gateway help'")
	}
	verb, address := flags.Arg(0), flags.Arg(1)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if !*here {
		if verb == "connect" {
			// A recording proves nothing about a connection between gateways that is older. If this
			// fails, verify finds that out.
			_ = control.Call(ctx, *socket, control.Request{Op: control.OpAnew}, new(api.Status))
		}
		ctx, cancel := context.WithTimeout(ctx, *duration)
		defer cancel()
		return probeAsApplication(ctx, []string{"probe", "--here", verb, address}, stdin, stdout, stderr)
	}
	switch verb {
	case "listen":
		ip, err := netip.ParseAddr(address)
		if err != nil {
			return fmt.Errorf("reading the address: %w", err)
		}
		return probe.Listen(ctx, ip, stdin, stdout)
	case "connect":
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("reading the address: %w", err)
		}
		return probe.Connect(ctx, to, stdin, stdout)
	}
	return api.WithHint(fmt.Errorf("unknown probe %q", verb), "use listen or connect")
}

func probeAsApplication(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	config, err := api.ConfigFromEnv(os.LookupEnv)
	if err != nil {
		return api.WithHint(err, "run this in a gateway's container")
	}
	return probe.Run(ctx, probe.Command{
		PodUID: config.Pod.UID, Path: selfPath, Args: args, Stdin: stdin, Stdout: stdout, Stderr: stderr,
	})
}
