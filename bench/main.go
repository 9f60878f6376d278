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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

func main() {
	helpers().Run()
	if args := os.Args[1:]; len(args) > 1 && args[0] == argHelper {
		if helper, ok := helpers()[args[1]]; ok {
			os.Exit(helper(args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(bench(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// bench is the whole program, and returns its exit code.
func bench(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p, format, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		p.Progress = stderr
		err = p.printed(ctx, format, stdout)
	}
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		err = errors.New("interrupted")
	}
	fmt.Fprintf(stderr, "error: %v\n", err)
	if hint := api.Hint(err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return 1
}

func parse(args []string, stderr io.Writer) (p plan, format string, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&p.Program, "gateway", "bin/kube-gateway", "`path` of the gateway's executable")
	flags.StringVar(&p.Base, "base", "", "`path` of another gateway's executable to compare with")
	flags.IntVar(&p.Rounds, "rounds", 5, "how often everything is measured")
	flags.DurationVar(&p.Duration, "duration", time.Second, "how long a single measurement takes")
	only := flags.String("only", "", "`groups` to measure (default "+strings.Join(allGroups(), ",")+")")
	sides := flags.String("sides", "", "`sides` to measure (default "+strings.Join(allSides(), ",")+")")
	with := flags.String("with", "", "other `proxies` to compare with, of "+strings.Join(otherProxyNames(), ","))
	onCluster := flags.Bool("cluster", false, "measure on the cluster that kubectl finds, through a Service, whose nodes are on this machine (make bench-cluster)")
	plugin := flags.String("plugin", "bin/kubectl-gateway", "with --cluster: `path` of the plugin's executable")
	flags.StringVar(&format, "o", "text", "output format: text or json")
	if err := flags.Parse(args); err != nil {
		return p, "", err
	}
	p.Held, p.Settle, p.Rest = heldConnections, 3*time.Second, 75*time.Second
	knownGroups, knownSides := allGroups(), allSides()
	if *onCluster {
		knownGroups, knownSides = clusterGroups(), clusterSides()
		if p.Base != "" || *with != "" {
			return p, "", errors.New("--cluster has no --base and no --with")
		}
		if p.Plugin, err = filepath.Abs(*plugin); err != nil {
			return p, "", err
		}
	}
	if p.Groups, err = choose("--only", *only, knownGroups); err != nil {
		return p, "", err
	}
	if p.Sides, err = choose("--sides", *sides, knownSides); err != nil {
		return p, "", err
	}
	if p.Base != "" {
		p.Sides = append(p.Sides, base)
	}
	if *with != "" {
		others, err := choose("--with", *with, otherProxyNames())
		if err != nil {
			return p, "", err
		}
		for _, name := range others {
			other, err := findOther(name)
			if err == nil {
				_, err = other.find()
			}
			if err != nil {
				return p, "", err
			}
		}
		p.Sides = append(p.Sides, others...)
	}
	switch {
	case flags.NArg() > 0:
		return p, "", fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case format != "text" && format != "json":
		return p, "", api.WithHint(fmt.Errorf("unknown output format %q", format), "use -o text or -o json")
	case p.Rounds < 1 || p.Duration < 10*time.Millisecond:
		return p, "", errors.New("at least one round and 10ms are needed")
	}
	if p.Program, err = filepath.Abs(p.Program); err == nil && p.Base != "" {
		p.Base, err = filepath.Abs(p.Base)
	}
	return p, format, err
}

// choose returns the names in list, in the order of known, or all of them if there is no list.
func choose(name, list string, known []string) (chosen []string, err error) {
	if list == "" {
		return known, nil
	}
	names := strings.Split(list, ",")
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, api.WithHint(fmt.Errorf("%s: there is no %q", name, n), "choose from "+strings.Join(known, ","))
		}
	}
	return slices.DeleteFunc(slices.Clone(known), func(n string) bool { return !slices.Contains(names, n) }), nil
}

// printed carries out the plan and prints the report.
func (p plan) printed(ctx context.Context, format string, stdout io.Writer) error {
	if os.Geteuid() != 0 {
		return api.WithHint(errors.New("root is needed for network namespaces and cgroups"), "run it with sudo")
	}
	for _, side := range []string{gateways, inband, service, base} {
		if p.Plugin != "" {
			break
		}
		if _, err := os.Stat(p.program(side)); err != nil && slices.Contains(p.Sides, side) {
			return api.WithHint(fmt.Errorf("looking for the gateway: %w", err), "run 'make build' first, or name it with --gateway or --base")
		}
	}
	start := time.Now()
	m, err := describe()
	if err != nil {
		return err
	}
	r, err := p.run(ctx)
	if err != nil {
		return err
	}
	m.LoadAfter = load()
	r.Machine, r.Took = m, time.Since(start)
	if format == "json" {
		return r.printJSON(stdout)
	}
	return r.printText(stdout)
}
