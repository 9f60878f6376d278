//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// File descriptors of a worker, in the order of exec.Cmd.ExtraFiles.
const (
	fdMaterial = 3 + iota
	fdReady
	fdCounters
	fdPeer
	fdCapture // and all that follow
)

// readyByte is what a worker writes once it accepts connections.
const readyByte = 'r'

// worker is one run of the unprivileged process.
type worker struct {
	process *os.Process
	started time.Time
	// ready is closed by a worker that serves.
	ready chan struct{}
	// done is closed when the process is gone; err says how.
	done chan struct{}
	err  error
}

// startWorker runs program as the unprivileged worker. The process ends with
// ctx (SIGTERM first, SIGKILL after grace) and with the supervisor.
func startWorker(ctx context.Context, program []string, material, counters *os.File, l *Listeners, grace time.Duration) (*worker, error) {
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("creating the ready pipe: %w", err)
	}
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Args = append(cmd.Args, "--capture-listeners", strconv.Itoa(len(l.Capture)))
	cmd.Env = []string{} // nothing of the container's environment
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = append([]*os.File{material, readyWrite, counters, l.Peer}, l.Capture...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: api.WorkerID, Gid: api.WorkerID},
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace

	w := &worker{ready: make(chan struct{}), done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The thread gives up its privileges for good, and Pdeathsig is about
		// the thread that started the process: so it lives as long as the
		// worker and ends with this goroutine.
		runtime.LockOSThread()
		defer close(w.done)
		err := dropPrivileges()
		if err == nil {
			err = cmd.Start()
		}
		readyWrite.Close()
		if err == nil {
			w.process, w.started = cmd.Process, time.Now()
		}
		started <- err
		if err == nil {
			w.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		readyRead.Close()
		return nil, fmt.Errorf("starting the worker: %w", err)
	}
	go func() {
		defer readyRead.Close()
		var b [1]byte
		if _, err := io.ReadFull(readyRead, b[:]); err == nil && b[0] == readyByte {
			close(w.ready)
		}
	}()
	return w, nil
}

// dropPrivileges makes sure that what the current thread starts next can never
// gain a privilege: no_new_privs, and an empty capability bounding set. The
// effective set stays, as changing to another user needs it; that change
// clears it.
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

// WorkerFiles are what a worker finds in its file descriptors.
type WorkerFiles struct {
	Material *os.File
	Counters *os.File
	Peer     *os.File
	Capture  []*os.File
	ready    *os.File
}

// InheritedFiles returns the descriptors that startWorker handed over.
func InheritedFiles(captureListeners int) *WorkerFiles {
	file := func(fd int, name string) *os.File {
		unix.CloseOnExec(fd)
		return os.NewFile(uintptr(fd), name)
	}
	w := &WorkerFiles{
		Material: file(fdMaterial, "material"),
		ready:    file(fdReady, "ready"),
		Counters: file(fdCounters, "counters"),
		Peer:     file(fdPeer, "peer listener"),
	}
	for i := range captureListeners {
		w.Capture = append(w.Capture, file(fdCapture+i, "capture listener"))
	}
	return w
}

// Ready tells the supervisor that the worker accepts connections.
func (w *WorkerFiles) Ready() error {
	defer w.ready.Close()
	if _, err := w.ready.Write([]byte{readyByte}); err != nil {
		return fmt.Errorf("telling the supervisor: %w", err)
	}
	return nil
}

// reason says how a worker that is done ended.
func (w *worker) reason() error {
	if w.err != nil {
		return fmt.Errorf("the worker ended: %w", w.err)
	}
	return errors.New("the worker ended by itself")
}

// kill ends the worker at once and waits until it is gone.
func (w *worker) kill() error {
	if err := w.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the worker: %w", err)
	}
	<-w.done
	return nil
}
