//go:build linux

package supervisor

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Restarts of a process wait between these, doubling. The first one does not wait, since
	// connections do.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
	// stableAfter is how long a process must have run for the next restart not to wait.
	stableAfter = 10 * time.Second
)

// child is one run of a process without privilege.
type child struct {
	// name is what errors call it.
	name    string
	process *os.Process
	started time.Time
	// done is closed when the process is gone; err says how.
	done chan struct{}
	err  error
}

// startChild runs a command as user and group id, with files from descriptor 3 on. The child
// has no capability and can get none, and has an empty environment, but for the FIPS 140-3 mode of
// the supervisor, which the status tells. It ends with the supervisor at the latest, and does not
// share its protection.
func startChild(name string, command []string, id uint32, files []*os.File, stdout *os.File, oom protection) (*child, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = []string{}
	if fips140.Enabled() {
		cmd.Env = append(cmd.Env, "GODEBUG=fips140=on")
	}
	cmd.Dir = "/"
	if stdout != nil {
		cmd.Stdout = stdout
	}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: id, Gid: id},
		Pdeathsig:  syscall.SIGKILL,
	}
	c := &child{name: name, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The thread loses its privileges forever, and Pdeathsig is about the thread that
		// started the process: so the thread lives as long as the child, and ends with this
		// goroutine.
		runtime.LockOSThread()
		defer close(c.done)
		err := dropPrivileges()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			c.process, c.started = cmd.Process, time.Now()
			if err = oom.unprotect(c.process.Pid); err != nil {
				err = errors.Join(err, c.process.Kill(), cmd.Wait())
			}
		}
		started <- err
		if err == nil {
			c.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting the %s: %w", name, err)
	}
	return c, nil
}

// dropPrivileges makes sure that a child of the current thread can never gain a privilege:
// no_new_privs, and an empty capability bounding set. The effective set stays, as changing
// to another user needs it; that change clears it.
func dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	for c := uintptr(0); ; c++ {
		// The kernel answers EINVAL past its last capability.
		switch err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); {
		case errors.Is(err, unix.EINVAL):
			return nil
		case err != nil:
			return fmt.Errorf("dropping capability %d from the bounding set: %w", c, err)
		}
	}
}

// reason returns how a child has ended, as an error.
func (c *child) reason() error {
	if c.err != nil {
		return fmt.Errorf("the %s ended: %w", c.name, c.err)
	}
	return fmt.Errorf("the %s ended by itself", c.name)
}

func (c *child) signal(sig os.Signal) error {
	if err := c.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signalling the %s: %w", c.name, err)
	}
	return nil
}

// kill ends the child at once and waits until it is gone.
func (c *child) kill() error {
	if err := c.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the %s: %w", c.name, err)
	}
	<-c.done
	return nil
}

// backoff is the pause between two runs of a process.
type backoff struct{ next time.Duration }

// pause waits until the next run, after one that was started at that time. It returns
// false when ctx is done.
func (b *backoff) pause(ctx context.Context, started time.Time) bool {
	if time.Since(started) > stableAfter {
		b.next = 0
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(b.next):
	}
	b.next = min(max(2*b.next, minBackoff), maxBackoff)
	return true
}
