//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The long-running roles, in the order in which they start each other.
const (
	roleSupervisor   = "supervisor"
	roleControlPlane = "control-plane"
	roleNode         = "node"
)

// clusterProgram is this program in the cluster's bin directory.
const clusterProgram = "cluster"

// namespaces of the units. The control group's is not among them: clone(2)
// would root it at the parent's group, so a node makes it by itself.
const (
	controlPlaneNamespaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS
	nodeNamespaces         = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
)

// supervise starts the nodes and the control plane, each in its namespaces, and
// forwards a loopback port of the machine to the API server. It is the only
// process of a running cluster in the machine's network namespace.
func supervise(ctx context.Context, c *Cluster, _ streams, _ []string) error {
	settings, err := c.settings()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	// The forwarder first, as its port is part of the kubeconfig.
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for kubectl: %w", err)
	}
	defer listener.Close()
	config, err := c.renderKubeconfig("https://"+listener.Addr().String(), "admin")
	if err != nil {
		return err
	}

	// An ended unit ends the cluster's health, which status and up then tell;
	// the others keep running for a look at them.
	watch := func(unit string, cmd *exec.Cmd) {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		if err := c.setUnit(unit, "failed", err.Error()); err != nil {
			cancel(err)
		}
	}
	args := []string{roleControlPlane}
	for _, node := range settings.machines() {
		cmd, err := c.startRole(nodeNamespaces, node.Name, roleNode, node.Name)
		if err != nil {
			return err
		}
		go watch(node.Name, cmd)
		args = append(args, node.Name+"="+strconv.Itoa(cmd.Process.Pid))
	}
	cmd, err := c.startRole(controlPlaneNamespaces, roleControlPlane, args...)
	if err != nil {
		return err
	}
	network, err := openNetwork(cmd.Process.Pid)
	go watch(roleControlPlane, cmd)
	if err != nil {
		return err
	}
	defer network.Close()
	if err := writeFile(c.Kubeconfig(), []byte(config), 0o600); err != nil {
		return err
	}

	go func() {
		target := net.JoinHostPort(controlPlaneIPv4().Addr().String(), strconv.Itoa(apiPort))
		cancel(forward(ctx, listener, network, target))
	}()
	<-ctx.Done()
	return context.Cause(ctx)
}

// setHostname names our own UTS namespace.
func setHostname(name string) error {
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	return nil
}
