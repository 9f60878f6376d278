//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// component is one program of the cluster, kept running by its unit.
type component struct {
	// Name is "<unit>/<program>" and names its log.
	Name string
	Args []string // Args[0] is in the cluster's bin directory
	// Ready returns nil once the component serves; nil means it has no such state.
	Ready func(context.Context) error
}

const (
	// A component that lived shorter than this failed to start,
	healthyAfter = 5 * time.Second
	// and after that many failures in a row up gives up on it.
	failuresToReport = 5
	restartDelay     = time.Second
)

// keepRunning starts a component, and again whenever it ends, until the context ends.
func (c *Cluster) keepRunning(ctx context.Context, comp component) error {
	log, err := os.OpenFile(c.logFile(comp.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", comp.Name, err)
	}
	defer log.Close()
	for failures := 0; ; {
		start := time.Now()
		err := c.runOnce(ctx, comp, log)
		if ctx.Err() != nil {
			return nil
		}
		if failures++; time.Since(start) > healthyAfter {
			failures = 1
		}
		fmt.Fprintf(log, "*** %s ended: %v; starting it again\n", comp.Name, err)
		if failures >= failuresToReport {
			if err := c.setUnit(comp.Name, "failed", fmt.Sprintf("%v, %d times in a row", err, failures)); err != nil {
				return err
			}
		}
		if pause(ctx, restartDelay) != nil {
			return nil
		}
	}
}

func (c *Cluster) runOnce(ctx context.Context, comp component, log io.Writer) error {
	cmd := exec.CommandContext(ctx, c.bin(comp.Args[0]), comp.Args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = c.environment()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", comp.Name, err)
	}
	if err := c.setUnit(comp.Name, "pid", strconv.Itoa(cmd.Process.Pid)); err != nil {
		return err
	}
	// What lives this long has recovered, should it have failed before.
	recovered := time.AfterFunc(healthyAfter, func() { c.clearUnit(comp.Name, "failed") })
	defer recovered.Stop()
	if err := cmd.Wait(); err != nil {
		return err
	}
	return errors.New("exit status 0")
}

// environment is that of everything that runs in the cluster. Our programs come
// first on PATH: containerd finds its shim there, and not an older one of the machine.
func (c *Cluster) environment() []string {
	env := []string{
		"PATH=" + c.BinDir() + ":" + systemPath,
		"HOME=/root",
		dirVariable + "=" + c.Dir,
	}
	for _, name := range []string{"GODEBUG", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// runGroup starts components in order, waiting for each to be ready before the
// next, and returns when the context ends. next runs when all are ready.
func (c *Cluster) runGroup(ctx context.Context, components []component, next func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	defer running.Wait()
	for _, comp := range components {
		running.Go(func() {
			if err := c.keepRunning(ctx, comp); err != nil {
				cancel(err)
			}
		})
		if comp.Ready == nil {
			continue
		}
		if err := await(ctx, func() error { return comp.Ready(ctx) }); err != nil {
			return fmt.Errorf("waiting for %s: %w", comp.Name, err)
		}
		if err := c.setUnit(comp.Name, "ready", ""); err != nil {
			return err
		}
	}
	if err := next(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// output runs one of the cluster's programs and returns what it printed.
func (c *Cluster) output(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.bin(args[0]), args[1:]...)
	cmd.Env = c.environment()
	cmd.Stdin = strings.NewReader(input)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, tail(string(output), 5))
	}
	return string(output), nil
}

// startRole starts this program again in a role of a background process,
// detached from the terminal, in a control group and namespaces of its own.
func (c *Cluster) startRole(cloneFlags uintptr, unit string, args ...string) (*exec.Cmd, error) {
	group, err := c.openCgroup(unit)
	if err != nil {
		return nil, err
	}
	defer group.Close()
	log, err := os.OpenFile(c.logFile(unit), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", unit, err)
	}
	defer log.Close()
	cmd := exec.Command(c.bin(clusterProgram), args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = c.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:      true,
		Cloneflags:  cloneFlags,
		UseCgroupFD: true,
		CgroupFD:    int(group.Fd()),
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", unit, err)
	}
	return cmd, c.setUnit(unit, "pid", strconv.Itoa(cmd.Process.Pid))
}
