//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// execute is the verb exec: it runs a command in all the namespaces of a unit,
// in the place of this process.
func execute(_ context.Context, c *Cluster, _ streams, args []string) error {
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1:1], args[2:]...)
	}
	if len(args) < 2 {
		return withHint(errors.New("exec takes a node and a command"), "for example: exec node-1 -- ip address")
	}
	settings, err := c.settings()
	if err != nil {
		return errDown(err)
	}
	unit := args[0]
	if unit != roleControlPlane {
		if _, err := findNode(settings, unit); err != nil {
			return err
		}
	}
	pid, ok := c.unitPID(unit)
	if !ok {
		return withHint(fmt.Errorf("%s is not running", unit), "see status, then try down and up")
	}
	// In the cluster's control group, so that down ends the command too.
	if err := c.joinCgroup(unit, "exec"); err != nil {
		return err
	}
	directory, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("finding the current directory: %w", err)
	}
	if err := enterNamespaces(pid); err != nil {
		return err
	}
	if err := os.Chdir(directory); err != nil {
		return fmt.Errorf("returning to the current directory: %w", err)
	}
	if err := os.Setenv("PATH", c.BinDir()+":"+os.Getenv("PATH")+":"+systemPath); err != nil {
		return fmt.Errorf("setting PATH: %w", err)
	}
	program, err := exec.LookPath(args[1])
	if err != nil {
		return fmt.Errorf("finding the command: %w", err)
	}
	return fmt.Errorf("starting %s: %w", program, syscall.Exec(program, args[1:], os.Environ()))
}

// enterNamespaces moves the calling thread, which stays locked, into the
// namespaces of a process. After that only an exec makes sense.
func enterNamespaces(pid int) error {
	runtime.LockOSThread()
	// Threads share their root directory, which forbids entering a mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leaving the shared root directory: %w", err)
	}
	var files []*os.File
	// The mount namespace last: it has another /proc to look into.
	for _, name := range []string{"cgroup", "ipc", "uts", "net", "mnt"} {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			return fmt.Errorf("opening a namespace: %w", err)
		}
		defer file.Close()
		files = append(files, file)
	}
	for _, file := range files {
		if err := unix.Setns(int(file.Fd()), 0); err != nil {
			return fmt.Errorf("entering %s: %w", file.Name(), err)
		}
	}
	return nil
}
