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
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// File descriptors of a worker, in the order of exec.Cmd.ExtraFiles.
const (
	fdMaterial = 3 + iota
	fdChannel
	fdCounters
	fdPeer
	fdEdges
	fdListeners // all that follow: capture, then in-band
)

// worker is one run of the unprivileged process.
type worker struct {
	process *os.Process
	started time.Time
	// material is what it was started with.
	material *os.File
	channel  *channel
	// ready gets nil once the worker serves, or an error if it says nonsense.
	ready chan error
	// done is closed when the process is gone; err says how.
	done chan struct{}
	err  error
}

// startWorker runs program as the unprivileged worker. The process ends with the
// supervisor at the latest.
func startWorker(program []string, material, counters *os.File, l *Listeners) (*worker, error) {
	ours, theirs, err := newChannel()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Args = append(cmd.Args, "--capture-listeners", strconv.Itoa(len(l.Capture)),
		"--inband-listeners", strconv.Itoa(len(l.Inband)))
	cmd.Env = []string{} // nothing of the container's environment
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = slices.Concat([]*os.File{material, theirs, counters, l.Peer, l.Edges}, l.Capture, l.Inband)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: api.WorkerID, Gid: api.WorkerID},
		Pdeathsig:  syscall.SIGKILL,
	}

	w := &worker{material: material, channel: ours, ready: make(chan error, 1), done: make(chan struct{})}
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
		theirs.Close()
		if err == nil {
			w.process, w.started = cmd.Process, time.Now()
		}
		started <- err
		if err == nil {
			w.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		ours.close()
		return nil, fmt.Errorf("starting the worker: %w", err)
	}
	go func() {
		r, err := ours.receive(time.Time{})
		switch {
		case errors.Is(err, io.EOF):
			return // done says more
		case err == nil && r.kind != replyReady:
			err = errors.New("the worker answered before it was ready")
		}
		w.ready <- err
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
	Edges    *os.File
	Capture  []*os.File
	Inband   []*os.File
	channel  workerChannel
}

// InheritedFiles returns the descriptors that startWorker handed over.
func InheritedFiles(captureListeners, inbandListeners int) (*WorkerFiles, error) {
	file := func(fd int, name string) *os.File {
		unix.CloseOnExec(fd)
		return os.NewFile(uintptr(fd), name)
	}
	conn, err := unixConn(file(fdChannel, "supervisor"))
	if err != nil {
		return nil, err
	}
	w := &WorkerFiles{
		Material: file(fdMaterial, "material"),
		Counters: file(fdCounters, "counters"),
		Peer:     file(fdPeer, "peer listener"),
		Edges:    file(fdEdges, "socket for edges"),
		channel:  workerChannel{conn},
	}
	for i := range captureListeners {
		w.Capture = append(w.Capture, file(fdListeners+i, "capture listener"))
	}
	for i := range inbandListeners {
		w.Inband = append(w.Inband, file(fdListeners+captureListeners+i, "in-band listener"))
	}
	return w, nil
}

// Ready tells the supervisor that the worker accepts connections.
func (w *WorkerFiles) Ready() error { return w.channel.send(reply{kind: replyReady}) }

// Follow hands new material to apply as the supervisor sends it, and tells the
// supervisor what became of it. It returns nil when ctx is done, and otherwise
// why it cannot go on: settings would pass this worker by.
func (w *WorkerFiles) Follow(ctx context.Context, apply func(*Material) error) error {
	defer context.AfterFunc(ctx, func() { w.channel.conn.Close() })()
	for {
		number, f, err := w.channel.receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for settings: %w", err)
		}
		answer := reply{kind: replyApplied, number: number}
		if err := applyFile(f, apply); err != nil {
			answer.kind, answer.words = replyRefused, err.Error()
		}
		if err := w.channel.send(answer); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func applyFile(f *os.File, apply func(*Material) error) error {
	defer f.Close()
	m, err := ReadMaterial(f)
	if err != nil {
		return err
	}
	return apply(m)
}

// reason says how a worker that is done ended.
func (w *worker) reason() error {
	if w.err != nil {
		return fmt.Errorf("the worker ended: %w", w.err)
	}
	return errors.New("the worker ended by itself")
}

// drain has the worker let its connections end, and abort what is left when
// patience is done. It waits until the worker is gone.
func (w *worker) drain(patience context.Context) error {
	if err := w.signal(syscall.SIGTERM); err != nil {
		return errors.Join(err, w.kill())
	}
	select {
	case <-w.done:
		return nil
	case <-patience.Done():
	}
	// Another signal than the first: two of a kind could become one on the way.
	if err := w.signal(os.Interrupt); err != nil {
		return errors.Join(err, w.kill())
	}
	select {
	case <-w.done:
		return nil
	case <-time.After(abortGrace):
		return errors.Join(fmt.Errorf("the worker did not end within %v", abortGrace), w.kill())
	}
}

func (w *worker) signal(sig os.Signal) error {
	if err := w.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("telling the worker to end: %w", err)
	}
	return nil
}

// kill ends the worker at once and waits until it is gone.
func (w *worker) kill() error {
	if err := w.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the worker: %w", err)
	}
	<-w.done
	return nil
}
