//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// resizeTimeout bounds how long one node may take to join or to leave.
const resizeTimeout = 2 * time.Minute

// resize is the verb nodes: spare nodes join the running cluster, or the last ones leave it,
// with all that runs on them, until it has as many as asked for.
func resize(ctx context.Context, c *Cluster, io streams, args []string) error {
	progress := newProgress(io.Err)
	release, err := c.lock(ctx, func() { progress.say("waiting for another up or down of %s", c.Dir) })
	if err != nil {
		return err
	}
	defer release()
	settings, err := c.settings()
	if err != nil {
		return errDown(err)
	}
	machines := settings.machines()
	wanted, err := strconv.Atoi(append(args, "")[0])
	if err != nil || len(args) != 1 || wanted < 1 || wanted > len(machines) {
		return withHint(fmt.Errorf("nodes takes a number from 1 to %d", len(machines)), "up --spare=N makes spare nodes")
	}
	for settings.Nodes != wanted {
		change, step := c.join, 1
		if wanted < settings.Nodes {
			change, step = c.leave, -1
		}
		next := settings
		next.Nodes, next.Spare = settings.Nodes+step, settings.Spare-step
		ctx, cancel := context.WithTimeout(ctx, resizeTimeout)
		err := change(ctx, next, machines[max(next.Nodes, settings.Nodes)-1])
		cancel()
		if err != nil {
			return err
		}
		if err := c.saveSettings(next); err != nil {
			return err
		}
		settings = next
	}
	progress.say("the cluster has %d nodes", settings.Nodes)
	return nil
}

// join makes a spare node a member, and waits until pods can run on it.
func (c *Cluster) join(ctx context.Context, settings Settings, joining node) error {
	text, err := renderNodes(settings, joining)
	if err != nil {
		return err
	}
	if _, err := c.output(ctx, text, "kubectl", "--kubeconfig", c.Kubeconfig(), "apply", "-f", "-"); err != nil {
		return fmt.Errorf("making the object of %s: %w", joining.Name, err)
	}
	c.clearUnit(joining.Name, "ready")
	if err := c.setUnit(joining.Name, "member", ""); err != nil {
		return err
	}
	if err := c.awaitUnit(ctx, joining.Name, "ready"); err != nil {
		return err
	}
	return await(ctx, func() error { return c.nodeReady(ctx, joining) })
}

// leave ends everything on a node, and removes its object.
func (c *Cluster) leave(ctx context.Context, _ Settings, leaving node) error {
	c.clearUnit(leaving.Name, "member")
	if err := await(ctx, func() error {
		if _, runs := c.unit(leaving.Name, "running"); runs {
			return errors.New(leaving.Name + " still runs")
		}
		return nil
	}); err != nil {
		return err
	}
	if _, err := c.output(ctx, "", "kubectl", "--kubeconfig", c.Kubeconfig(), "delete", "node", leaving.Name, "--ignore-not-found"); err != nil {
		return fmt.Errorf("removing the object of %s: %w", leaving.Name, err)
	}
	return nil
}
