//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// runControlPlane is the role of the unit control-plane: the wire between the
// nodes, the API server and what belongs to it. Its arguments are NODE=PID, for
// the network namespaces to connect.
func runControlPlane(ctx context.Context, c *Cluster, _ streams, args []string) error {
	settings, err := c.settings()
	if err != nil {
		return err
	}
	pids := map[string]int{}
	for _, arg := range args {
		name, text, _ := strings.Cut(arg, "=")
		pid, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("parsing %q: %w", arg, err)
		}
		pids[name] = pid
		if err := c.awaitUnit(ctx, name, "namespaces"); err != nil {
			return err
		}
	}
	if err := setHostname(roleControlPlane); err != nil {
		return err
	}
	if err := setUpControlPlane(ctx, settings, pids); err != nil {
		return err
	}
	if err := c.writeControlPlaneFiles(settings); err != nil {
		return err
	}
	return c.runGroup(ctx, c.controlPlaneStore(settings), func(ctx context.Context) error {
		objects, err := renderObjects(settings)
		if err != nil {
			return err
		}
		// The API server makes the namespace kube-system a moment after it is ready.
		err = await(ctx, func() error {
			_, err := c.output(ctx, objects, "kubectl", "--kubeconfig", c.path("control-plane", "admin.kubeconfig"), "apply", "-f", "-")
			return err
		})
		if err != nil {
			return fmt.Errorf("making the first objects: %w", err)
		}
		if err := c.setUnit(roleControlPlane, "objects", ""); err != nil {
			return err
		}
		return c.runGroup(ctx, c.controlPlaneControllers(settings), func(context.Context) error {
			return c.setUnit(roleControlPlane, "ready", "")
		})
	})
}
