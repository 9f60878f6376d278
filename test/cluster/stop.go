//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// stoppedSuffix is added to a component's link in bin/ while the component is
// stopped. keepRunning cannot start what it does not find, and goes on trying.
const stoppedSuffix = ".stopped"

// componentTimeout bounds how long stop and start wait.
const componentTimeout = time.Minute

// stop is the verb stop: it kills a component and keeps it from running until
// start. Only components with a program of their own can be stopped: those of
// the control plane.
func stop(ctx context.Context, c *Cluster, io streams, args []string) error {
	unit, program, err := c.component(args)
	if err != nil {
		return err
	}
	link := c.bin(program)
	if err := os.Rename(link, link+stoppedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stopping %s: %w", unit, err)
	}
	ctx, cancel := context.WithTimeout(ctx, componentTimeout)
	defer cancel()
	err = await(ctx, func() error {
		pid, running := c.unitPID(unit)
		if !running {
			return nil
		}
		// Killed, not asked to end: an API server would first wait for its clients.
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("killing process %d: %w", pid, err)
		}
		return fmt.Errorf("%s still runs as process %d", unit, pid)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(io.Err, "%s is stopped\n", unit)
	return nil
}

// start is the verb start, which ends what stop began.
func start(ctx context.Context, c *Cluster, io streams, args []string) error {
	unit, program, err := c.component(args)
	if err != nil {
		return err
	}
	link := c.bin(program)
	if err := os.Rename(link+stoppedSuffix, link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("starting %s: %w", unit, err)
	}
	ctx, cancel := context.WithTimeout(ctx, componentTimeout)
	defer cancel()
	err = await(ctx, func() error {
		if _, running := c.unitPID(unit); !running {
			return fmt.Errorf("%s does not run", unit)
		}
		var object struct{}
		return c.getObject(ctx, "/api/v1/namespaces/kube-system", &object)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(io.Err, "%s is started\n", unit)
	return nil
}

// component returns the unit that the arguments of stop and start name, and its
// program.
func (c *Cluster) component(args []string) (unit, program string, err error) {
	if len(args) == 1 && !strings.HasPrefix(args[0], "-") {
		unit = args[0]
	} else if err := parse(flag.NewFlagSet("stop and start", flag.ContinueOnError), args); err != nil {
		return "", "", err
	}
	settings, err := c.settings()
	if err != nil {
		return "", "", errDown(err)
	}
	for _, list := range [][]component{c.controlPlaneStore(settings), c.controlPlaneControllers(settings)} {
		for _, candidate := range list {
			if candidate.Name == unit {
				return unit, candidate.Args[0], nil
			}
		}
	}
	return "", "", withHint(fmt.Errorf("%q is no component of the control plane", unit), "for example: stop control-plane/kube-apiserver")
}
