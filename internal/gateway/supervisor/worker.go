//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
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

// worker is one run of the unprivileged process that carries the traffic.
type worker struct {
	*child
	// material is what it was started with.
	material *os.File
	channel  *channel
	// ready gets nil once the worker serves, or an error if it says nonsense.
	ready chan error
}

// startWorker runs program as the unprivileged worker.
func startWorker(program []string, material, counters *os.File, l *Listeners) (*worker, error) {
	ours, theirs, err := newChannel()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	command := slices.Concat(program, []string{
		"--capture-listeners", strconv.Itoa(len(l.Capture)), "--inband-listeners", strconv.Itoa(len(l.Inband)),
	})
	files := slices.Concat([]*os.File{material, theirs, counters, l.Peer, l.Edges}, l.Capture, l.Inband)
	c, err := startChild("worker", command, api.WorkerID, files, os.Stdout)
	if err != nil {
		ours.close()
		return nil, err
	}
	w := &worker{child: c, material: material, channel: ours, ready: make(chan error, 1)}
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
