//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const defaultNodes = 2

// firstInherited is the first descriptor that is no standard stream.
const firstInherited = 3

// up starts the cluster and returns when it is ready for pods. With a cluster
// that is up it changes nothing.
func up(ctx context.Context, c *Cluster, io streams, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.SetOutput(io.Err)
	count := flags.Int("nodes", defaultNodes, "number of nodes")
	spare := flags.Int("spare", 1, "number of nodes that can join it later, see the verb nodes")
	timeout := flags.Duration("timeout", 4*time.Minute, "how long to wait for a started cluster to be ready")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *count < 1 || *spare < 0 || *count+*spare > maxNodes {
		return fmt.Errorf("--nodes must be at least 1, and at most %d with --spare", maxNodes)
	}
	if err := requireRoot(); err != nil {
		return err
	}
	// What the caller left open, a lock perhaps, is not the cluster's to hold on to.
	if err := unix.CloseRange(firstInherited, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keeping the caller's files from the cluster: %w", err)
	}
	given := false
	flags.Visit(func(f *flag.Flag) { given = given || f.Name == "nodes" })
	progress := newProgress(io.Err)
	release, err := c.lock(ctx, func() { progress.say("waiting for another up or down of %s", c.Dir) })
	if err != nil {
		return err
	}
	defer release()

	if settings, err := c.settings(); err == nil {
		if problem := c.dead(settings); problem == nil {
			if given && settings.Nodes != *count {
				return withHint(fmt.Errorf("the cluster is up with %d nodes, not %d", settings.Nodes, *count), "run down first")
			}
			return c.alreadyUp(ctx, progress, settings, *timeout)
		} else {
			progress.say("removing what is left of an earlier cluster: %v", problem)
		}
	}
	if err := c.remove(ctx); err != nil {
		return err
	}
	if err := c.start(ctx, progress, *count, *spare, *timeout); err != nil {
		// The logs stay, for a look; the next up or down removes them.
		return errors.Join(err, c.stop(context.WithoutCancel(ctx)))
	}
	c.announce(progress, "the cluster is up")
	return nil
}

// start makes and starts everything; the state directory does not exist yet.
func (c *Cluster) start(ctx context.Context, progress *progress, count, spare int, timeout time.Duration) error {
	if err := c.claim(); err != nil {
		return err
	}
	if err := installPackages(ctx, progress); err != nil {
		return err
	}
	if err := c.installPrograms(ctx, progress); err != nil {
		return err
	}
	settings := Settings{Nodes: count, Spare: spare, IPv6: hasIPv6(), CNIPlugins: findCNI()}
	progress.say("starting the cluster with %d nodes", settings.Nodes)
	if err := c.makeCertificates(settings); err != nil {
		return err
	}
	if err := c.makePauseImage(); err != nil {
		return err
	}
	if err := c.saveSettings(settings); err != nil {
		return err
	}
	cmd, err := c.startRole(0, roleSupervisor, roleSupervisor)
	if err != nil {
		return err
	}
	go func() {
		err := cmd.Wait()
		_ = c.setUnit(roleSupervisor, "failed", fmt.Sprint(err)) // at worst up waits until its timeout
	}()
	return c.waitReady(ctx, progress, settings, timeout)
}

// installPrograms fills bin/: a copy of this program, which "go run" removes
// when it ends, and links to the cached others.
func (c *Cluster) installPrograms(ctx context.Context, progress *progress) error {
	group, err := c.openCgroup("build")
	if err != nil {
		return err
	}
	defer group.Close()
	builder, err := newBuilder(progress, group)
	if err != nil {
		return err
	}
	executables, err := builder.all(ctx)
	if err != nil {
		return err
	}
	for _, p := range programs() {
		for _, link := range append([]string{p.Name}, p.Links...) {
			if err := os.Symlink(executables[p.Name], c.bin(link)); err != nil {
				return fmt.Errorf("linking %s: %w", link, err)
			}
		}
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("reading this program: %w", err)
	}
	if err := writeFile(c.bin(clusterProgram), self, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(clusterProgram, c.bin(ociRuntimeName)); err != nil {
		return fmt.Errorf("linking %s: %w", ociRuntimeName, err)
	}
	return nil
}

// dead returns why a started cluster cannot work any more, nil if it may. It
// looks at processes only: a busy machine must not cost anybody their cluster.
func (c *Cluster) dead(settings Settings) error {
	units := []string{roleSupervisor, roleControlPlane}
	for _, node := range settings.nodes() {
		units = append(units, node.Name)
	}
	for _, unit := range units {
		if _, ok := c.unitPID(unit); !ok {
			return fmt.Errorf("%s is not running", unit)
		}
	}
	return nil
}

func (c *Cluster) alreadyUp(ctx context.Context, progress *progress, settings Settings, timeout time.Duration) error {
	if err := c.waitReady(ctx, progress, settings, timeout); err != nil {
		return withHint(err, "run down, then up")
	}
	c.announce(progress, "the cluster is up already")
	return nil
}

// waitReady returns when pods can run on every node, or with the reason and
// the log of the component that is to blame.
func (c *Cluster) waitReady(ctx context.Context, progress *progress, settings Settings, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not ready after %s", timeout))
	defer cancel()
	for _, stage := range c.stages(settings) {
		beat, stop := context.WithCancel(ctx)
		go progress.heartbeat(beat, 15*time.Second, func() string { return "waiting: " + stage.what })
		waited := false
		err := await(ctx, func() error {
			if unit, reason := c.failedUnit(settings); unit != "" {
				cancel()
				return c.failure(unit, errors.New(reason))
			}
			err := stage.ready(ctx)
			waited = waited || err != nil
			return err
		})
		stop()
		if err != nil {
			if failed := (*unitError)(nil); errors.As(err, &failed) {
				return failed
			}
			return c.failure(stage.unit, fmt.Errorf("%s: %w", stage.what, err))
		}
		if waited {
			progress.say("  %s", stage.what)
		}
	}
	return nil
}

// stage is a condition on the way to a cluster that is ready.
type stage struct {
	what  string
	unit  string // whose log to show when it is not reached
	ready func(context.Context) error
}

func (c *Cluster) stages(settings Settings) []stage {
	file := func(unit, what string) func(context.Context) error {
		return func(context.Context) error {
			if _, ok := c.unit(unit, what); !ok {
				return errors.New("not yet")
			}
			return nil
		}
	}
	stages := []stage{
		{"etcd serves", "control-plane/etcd", file("control-plane/etcd", "ready")},
		{"the API server serves", "control-plane/kube-apiserver", file("control-plane/kube-apiserver", "ready")},
		{"the first objects exist", roleControlPlane, file(roleControlPlane, "objects")},
		{"the name service answers", "control-plane/coredns", file("control-plane/coredns", "ready")},
		{"the control plane is ready", roleControlPlane, file(roleControlPlane, "ready")},
	}
	for _, node := range settings.nodes() {
		stages = append(stages,
			stage{node.Name + ": kubelet runs", node.Name + "/kubelet", file(node.Name+"/kubelet", "ready")},
			stage{node.Name + ": Services are reachable", node.Name + "/kube-proxy", file(node.Name+"/kube-proxy", "ready")},
			stage{node.Name + ": ready", node.Name + "/kubelet", func(ctx context.Context) error { return c.nodeReady(ctx, node) }},
		)
	}
	return append(stages, stage{"pods can be made", "control-plane/kube-controller-manager", func(ctx context.Context) error {
		var account struct{}
		return c.getObject(ctx, "/api/v1/namespaces/default/serviceaccounts/default", &account)
	}})
}

// failedUnit returns the first unit or component that has given up.
func (c *Cluster) failedUnit(settings Settings) (unit, reason string) {
	for _, unit := range c.everything(settings) {
		if reason, failed := c.unit(unit, "failed"); failed {
			return unit, reason
		}
	}
	return "", ""
}

// everything lists the units of a cluster, each followed by its components.
func (c *Cluster) everything(settings Settings) []string {
	all := []string{roleSupervisor, roleControlPlane}
	add := func(components []component) {
		for _, comp := range components {
			all = append(all, comp.Name)
		}
	}
	add(c.controlPlaneStore(settings))
	add(c.controlPlaneControllers(settings))
	for _, node := range settings.nodes() {
		all = append(all, node.Name)
		add(c.nodeRuntime(node))
		add(c.nodeAgents(settings, node))
	}
	return all
}

// unitError is a failure with the end of the log that explains it.
type unitError struct {
	unit, file, log string
	reason          error
}

func (e *unitError) Error() string {
	return fmt.Sprintf("%s failed: %v\nthe end of %s:\n%s", e.unit, e.reason, e.file, e.log)
}

func (e *unitError) Unwrap() error { return e.reason }

func (c *Cluster) failure(unit string, reason error) error {
	text, err := os.ReadFile(c.logFile(unit))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		text = []byte(err.Error())
	}
	return &unitError{unit, c.logFile(unit), tail(string(text), 25), reason}
}

// announce says how to use the cluster.
func (c *Cluster) announce(progress *progress, what string) {
	progress.say("%s", what)
	fmt.Fprintf(progress.out, "\n%s\n", c.shellLines())
}

func (c *Cluster) shellLines() string {
	return fmt.Sprintf("export KUBECONFIG=%s\nexport PATH=%s:\"$PATH\"", c.Kubeconfig(), c.BinDir())
}

// parse parses flags and refuses further arguments.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitStatus(0)
		}
		return exitStatus(2) // flag has said why
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s takes no argument %q", flags.Name(), strings.Join(flags.Args(), " "))
	}
	return nil
}

func requireRoot() error {
	if os.Geteuid() != 0 {
		return withHint(errors.New("a cluster needs root, for namespaces and mounts"), "run it with sudo -E")
	}
	return nil
}

// build is the verb build: it fills the cache without a cluster.
func build(ctx context.Context, _ *Cluster, io streams, args []string) error {
	if err := parse(flag.NewFlagSet("build", flag.ContinueOnError), args); err != nil {
		return err
	}
	builder, err := newBuilder(newProgress(io.Err), nil)
	if err != nil {
		return err
	}
	executables, err := builder.all(ctx)
	for _, p := range programs() {
		if path, ok := executables[p.Name]; ok {
			fmt.Fprintln(io.Out, filepath.Clean(path))
		}
	}
	return err
}
