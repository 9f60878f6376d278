//go:build linux

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

const (
	// cgroupPrefix begins the names of probes' cgroups, right below the pod's.
	cgroupPrefix = "kube-gateway-probe-"
	// removeTimeout bounds the wait for a cgroup to be empty after its process has ended.
	removeTimeout = 2 * time.Second
)

// Command is a process to run as an application of the pod.
type Command struct {
	// PodUID is the pod's.
	PodUID string
	// Path and Args are the program.
	Path string
	Args []string

	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run runs a command in the pod of this process, outside of the gateway's cgroup, until it or ctx
// ends. Then it removes the command's cgroup.
func Run(ctx context.Context, c Command) (err error) {
	pod, _, err := bpf.PodCgroup(c.PodUID)
	if err != nil {
		return err
	}
	removeStale(pod.Path)
	dir, err := os.MkdirTemp(pod.Path, cgroupPrefix)
	if err != nil {
		return fmt.Errorf("making a cgroup for the probe: %w", err)
	}
	defer func() { err = errors.Join(err, remove(dir)) }()
	cgroup, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("making a cgroup for the probe: %w", err)
	}
	defer cgroup.Close()

	// The child ends with this process: Pdeathsig is about the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = []string{} // the container's environment holds a key
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), Pdeathsig: unix.SIGKILL,
		Credential: &syscall.Credential{Uid: api.ProbeID, Gid: api.ProbeID},
	}
	// With cmd.Stdin, Wait would wait for the end of the input.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting the probe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the probe: %w", err)
	}
	go func() {
		// The probe may end before its input.
		_, _ = io.Copy(stdin, c.Stdin)
		stdin.Close()
	}()
	if err := cmd.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("running the probe: %w", err)
	}
	return ctx.Err()
}

// remove removes a cgroup whose process has ended.
func remove(dir string) error {
	for deadline := time.Now().Add(removeTimeout); ; time.Sleep(time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("removing the probe's cgroup: %w", err)
		}
	}
}

// removeStale removes the cgroups of killed probes. A cgroup with a process in it cannot be
// removed.
func removeStale(pod string) {
	stale, _ := filepath.Glob(filepath.Join(pod, cgroupPrefix+"*"))
	for _, dir := range stale {
		_ = os.Remove(dir)
	}
}
