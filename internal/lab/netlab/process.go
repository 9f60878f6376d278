//go:build linux

package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// helperVariable names the helper that a re-executed program is to run.
const helperVariable = "NETLAB_HELPER"

// Helpers maps names to what a re-executed test binary or program can be. A
// helper's result is its exit code.
type Helpers map[string]func(args []string) int

// Run runs the helper that this process was started for, and exits with its code.
// It returns if the process was not started as a helper. Call it first in TestMain or main.
func (h Helpers) Run() {
	name := os.Getenv(helperVariable)
	if name == "" {
		return
	}
	os.Unsetenv(helperVariable)
	f, ok := h[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "netlab: there is no helper %q\n", name)
		os.Exit(2)
	}
	os.Exit(f(os.Args[1:]))
}

// Command says what to start, and where.
type Command struct {
	// Cgroup is the absolute path of the cgroup to start in, such as
	// [Node.AppCgroup]. It must not be empty.
	Cgroup string
	// Helper is the name of a helper to run in a copy of this program. Otherwise Path is
	// the program to run.
	Helper string
	Path   string
	Args   []string
	// Env is added to this process's environment.
	Env []string
	// Stdin, Stdout and Stderr are as in [exec.Cmd], except that nil Stdout and Stderr
	// are collected for [Process.Output].
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// User is the user and group ID to run as, without capabilities, unless it is 0.
	User uint32
	// Mount, if not nil, changes the mounts that the process sees, before it starts. It is called
	// in a mount namespace of the process's own.
	Mount func() error
}

// Process is a process in a node.
type Process struct {
	*os.Process

	cmd    *exec.Cmd
	output buffer
	done   chan struct{}
	err    error
}

// Start starts a process in the node's network namespace and the given cgroup, in
// both from its first instruction on. It is killed with the network.
func (n *Node) Start(c Command) *Process {
	if n.lab.t != nil {
		n.lab.t.Helper()
	}
	p, err := n.TryStart(c)
	if err != nil {
		n.lab.fatal(err)
	}
	return p
}

// TryStart is Start for those who handle errors themselves.
func (n *Node) TryStart(c Command) (*Process, error) {
	if c.Cgroup == "" {
		return nil, errors.New("starting a process: no cgroup is named")
	}
	path, env := c.Path, append(os.Environ(), c.Env...)
	if c.Helper != "" {
		self, err := n.lab.executable()
		if err != nil {
			return nil, fmt.Errorf("starting helper %s: %w", c.Helper, err)
		}
		path, env = self, append(env, helperVariable+"="+c.Helper)
	}
	dir, err := os.Open(c.Cgroup)
	if err != nil {
		return nil, fmt.Errorf("starting a process: %w", err)
	}
	defer dir.Close()

	p := &Process{done: make(chan struct{})}
	cmd := exec.Command(path, c.Args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, c.Stdin, c.Stdout, c.Stderr
	if cmd.Stdout == nil {
		cmd.Stdout = &p.output
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.output
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if c.User != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.User, Gid: c.User}
	}
	// A child is in the network namespace of the thread that forks it.
	if err := n.Do(func() error { return startMounted(cmd, c.Mount) }); err != nil {
		return nil, fmt.Errorf("starting %s: %w", path, err)
	}
	p.cmd, p.Process = cmd, cmd.Process
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// startMounted starts cmd in a mount namespace of its own, which mount has changed, unless that is
// nil. The calling thread must end afterwards.
func startMounted(cmd *exec.Cmd, mount func() error) error {
	if mount == nil {
		return cmd.Start()
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping mounts to the namespace: %w", err)
	}
	if err := mount(); err != nil {
		return fmt.Errorf("mounting: %w", err)
	}
	return cmd.Start()
}

// executable returns a copy of this program that every user can run: go test builds
// in a directory that only its own user can enter.
func (l *Lab) executable() (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.copied != "" {
		return l.copied, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", rootPrefix, os.Getpid()))
	if err != nil {
		return "", err
	}
	l.closers = append(l.closers, func() error { return os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	copied := filepath.Join(dir, "program")
	if err := os.Link(self, copied); err != nil {
		text, err := os.ReadFile(self)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(copied, text, 0o755); err != nil {
			return "", err
		}
	}
	l.copied = copied
	return copied, nil
}

// Wait waits until the process has ended, and returns the error of [exec.Cmd.Wait]. It
// may be called more than once.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Output returns what the process has written so far, as far as it was collected.
func (p *Process) Output() string { return p.output.String() }

// Stop kills the process and waits for its end.
func (p *Process) Stop() {
	p.Kill()
	<-p.done
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
