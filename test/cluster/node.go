//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// inNodeCgroup is the argument of the second life of a node's first process.
const inNodeCgroup = "--in-cgroup"

// runNode is the role of a unit node-N: it becomes the node and runs its daemons.
func runNode(ctx context.Context, c *Cluster, _ streams, args []string) error {
	if len(args) == 1 {
		return c.enterNodeCgroup(args[0])
	}
	settings, err := c.settings()
	if err != nil {
		return err
	}
	self, err := findNode(settings, args[0])
	if err != nil {
		return err
	}
	// control-plane waits for this: during the exec that began this second
	// life, the process had no namespaces to be found by.
	if err := c.setUnit(self.Name, "namespaces", ""); err != nil {
		return err
	}
	if err := setHostname(self.Name); err != nil {
		return err
	}
	keep := []string{c.Dir}
	for _, link := range []string{"kube", "containerd"} {
		program, err := os.Readlink(c.bin(link))
		if err != nil {
			return fmt.Errorf("finding the cache: %w", err)
		}
		keep = append(keep, filepath.Dir(program))
	}
	if err := setUpMounts(c.path(self.Name), keep...); err != nil {
		return err
	}
	if err := setUpNode(ctx, settings, self); err != nil {
		return err
	}
	if err := c.writeNodeFiles(settings, self); err != nil {
		return err
	}
	if slices.Contains(settings.nodes(), self) {
		if err := c.setUnit(self.Name, "member", ""); err != nil {
			return err
		}
	}
	for {
		if err := c.awaitUnit(ctx, self.Name, "member"); err != nil {
			return err
		}
		if err := c.runMember(ctx, settings, self); err != nil {
			return err
		}
		// What no kubelet stops any more.
		if err := killCgroup(ctx, cgroupRoot+podsCgroup); err != nil {
			return err
		}
		c.clearUnit(self.Name, "running")
	}
}

// runMember runs a node's daemons until it is no member of the cluster any more.
func (c *Cluster) runMember(ctx context.Context, settings Settings, self node) error {
	if err := c.setUnit(self.Name, "running", ""); err != nil {
		return err
	}
	member, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	left := errors.New("it has left the cluster")
	go func() {
		_ = await(member, func() error {
			if _, stays := c.unit(self.Name, "member"); stays {
				return errors.New("it is a member")
			}
			leave(left)
			return nil
		})
	}()
	err := c.runGroup(member, c.nodeRuntime(self), func(ctx context.Context) error {
		if _, err := c.output(ctx, "", importArgs(containerdSocket, c.path("pause.tar"))...); err != nil {
			return err
		}
		// A kubelet that comes first would register a node without pod ranges.
		if err := c.awaitUnit(ctx, roleControlPlane, "objects"); err != nil {
			return err
		}
		return c.runGroup(ctx, c.nodeAgents(settings, self), func(context.Context) error {
			return c.setUnit(self.Name, "ready", "")
		})
	})
	if errors.Is(err, left) {
		return nil
	}
	return err
}

// enterNodeCgroup makes our control group the root of a cgroup namespace, moves
// us to a leaf below it and starts the program anew, which extends both to all
// of its threads.
func (c *Cluster) enterNodeCgroup(name string) error {
	// Found now, since inside the namespace no mount shows the root any more.
	leaf, err := c.cgroup(name, "system")
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a cgroup namespace: %w", err)
	}
	if err := enterCgroup(leaf); err != nil {
		return err
	}
	err = syscall.Exec(c.bin(clusterProgram), []string{clusterProgram, roleNode, name, inNodeCgroup}, os.Environ())
	return fmt.Errorf("starting anew in the cgroup namespace: %w", err)
}

func findNode(settings Settings, name string) (node, error) {
	var names []string
	for _, n := range settings.machines() {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return node{}, withHint(fmt.Errorf("there is no node %q", name), "the nodes are "+strings.Join(names, ", "))
}
