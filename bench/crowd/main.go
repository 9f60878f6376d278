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
	"path/filepath"
	"syscall"
	"time"
)

// plan is what is measured.
type plan struct {
	// Plugin is the plugin's executable, and Cluster the embedded cluster's tool, which has the
	// programs of Kubernetes.
	Plugin, Cluster string
	// Pods are spread over Nodes, and belong to a controller by twenties.
	Pods, Nodes int
	// Parallel is that of the plugin, 0 for its default.
	Parallel int
	// Start is how long a kubelet needs to start a container.
	Start time.Duration
	// Slow is the share of containers whose kubelet cannot read the Secret at first.
	Slow float64
	// Life is that of the certificates whose renewals are measured, and nothing else; 0 measures all else.
	Life time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "error:", err)
		}
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var p plan
	flags := flag.NewFlagSet("crowd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&p.Plugin, "plugin", "bin/kubectl-gateway", "`path` of the plugin")
	flags.StringVar(&p.Cluster, "cluster", "bin/cluster", "`path` of the embedded cluster's tool")
	flags.IntVar(&p.Pods, "pods", 1000, "how many pods there are")
	flags.IntVar(&p.Nodes, "nodes", 20, "how many nodes there are")
	flags.IntVar(&p.Parallel, "parallel", 0, "--parallel of the plugin (default: its own)")
	flags.DurationVar(&p.Start, "start", 500*time.Millisecond, "how long a kubelet needs to start a container")
	flags.Float64Var(&p.Slow, "slow", 0.05, "share of containers whose kubelet fails to read the Secret at first")
	flags.DurationVar(&p.Life, "life", 0, "measure the renewals of certificates with this `life` in the place of all else (shortest of signers: 10m)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if p.Pods < 1 || p.Nodes < 1 || p.Nodes > maxNodes || p.Pods > p.Nodes*podsPerNode {
		return fmt.Errorf("at least one pod and one node are needed, at most %d nodes and %d pods on each", maxNodes, podsPerNode)
	}
	for _, path := range []*string{&p.Plugin, &p.Cluster} {
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
		if _, err := os.Stat(*path); err != nil {
			return fmt.Errorf("%w: run 'make build cluster-tool' first", err)
		}
	}
	return p.measure(ctx, stdout, stderr)
}

// measure starts everything, measures, and prints what it finds.
func (p plan) measure(ctx context.Context, stdout, stderr io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "crowd-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fmt.Fprintln(stderr, "starting etcd and the API server")
	server, err := startServer(ctx, p.Cluster, dir)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		server.wait()
	}()
	nodes, err := startKubelets(ctx, server, p)
	if err != nil {
		return err
	}
	m := &meter{plan: p, server: server, nodes: nodes, dir: dir, out: stdout, progress: stderr}
	if err := m.plugin(ctx, "init-ca"); err != nil {
		return err
	}
	steps := []func(context.Context) error{m.enableBySecret, m.enableByCSR, m.watch}
	if p.Life > 0 {
		steps = []func(context.Context) error{m.renewals}
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}
