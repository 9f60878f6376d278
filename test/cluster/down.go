//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
)

// down removes everything that up made. It is no error when there is nothing.
func down(ctx context.Context, c *Cluster, io streams, args []string) error {
	if err := parse(flag.NewFlagSet("down", flag.ContinueOnError), args); err != nil {
		return err
	}
	if err := requireRoot(); err != nil {
		return err
	}
	progress := newProgress(io.Err)
	release, err := c.lock(ctx, func() { progress.say("waiting for another up or down of %s", c.Dir) })
	if err != nil {
		return err
	}
	defer release()
	existed, err := c.exists()
	if err != nil {
		return err
	}
	if !existed {
		progress.say("the cluster is down already")
		return nil
	}
	if err := c.remove(ctx); err != nil {
		return err
	}
	progress.say("the cluster is down; nothing of it is left")
	return nil
}

// exists tells whether anything of the cluster is on this machine.
func (c *Cluster) exists() (bool, error) {
	group, err := c.cgroup()
	if err != nil {
		return false, err
	}
	_, err = os.Stat(group)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("looking for the control group: %w", err)
	}
	return err == nil || c.claimed(), nil
}

// stop ends every process of the cluster, and with them its mounts, network
// and control groups.
func (c *Cluster) stop(ctx context.Context) error {
	group, err := c.cgroup()
	if err != nil {
		return err
	}
	if err := killCgroup(ctx, group); err != nil {
		return err
	}
	return removeCgroup(ctx, group)
}

// remove stops the cluster and removes its state directory.
func (c *Cluster) remove(ctx context.Context) error {
	if err := c.stop(ctx); err != nil {
		return err
	}
	if !c.claimed() {
		return nil
	}
	// The marker goes last, so that an interrupted removal can be continued.
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		return fmt.Errorf("reading the state directory: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == markerFile {
			continue
		}
		if err := os.RemoveAll(c.path(entry.Name())); err != nil {
			return fmt.Errorf("removing the state directory: %w", err)
		}
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		return fmt.Errorf("removing the state directory: %w", err)
	}
	return nil
}
