//go:build linux

package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Channel is the supervisor's end of a packet socket to one worker. Down go sealed memory
// files with new material, up come replies. The supervisor reads only when it expects a
// reply, so a worker that talks too much fills its own socket buffer and nothing else.
type Channel struct {
	conn *net.UnixConn
	// wishes is a pipe in which each byte is a wish of the worker.
	wishes *os.File
	// first is what AwaitReady sends.
	first *os.File
	// number is that of the settings that were sent last.
	number uint64
}

// ErrNoWorker means that the worker closed its end before it received anything.
var ErrNoWorker = errors.New("the worker has ended")

// RefusedError is a worker's reply that it refuses settings and keeps those it has.
type RefusedError struct{ words string }

func (e *RefusedError) Error() string { return "the worker refused the settings: " + e.words }

// AwaitReady hands the worker its first material as soon as its memory is hidden, and waits until it
// says that it is ready, and how it is confined. The error is io.EOF when the worker has ended.
func (c *Channel) AwaitReady() (api.Confinement, error) {
	defer c.first.Close()
	if _, err := c.await(replyHidden); err != nil {
		return api.Confinement{}, err
	}
	if err := c.send(c.first); errors.Is(err, ErrNoWorker) {
		return api.Confinement{}, io.EOF
	} else if err != nil {
		return api.Confinement{}, err
	}
	r, err := c.await(replyReady)
	if err != nil {
		return api.Confinement{}, err
	}
	return decodeConfinement(r.number), nil
}

// await waits for a reply of a kind.
func (c *Channel) await(kind byte) (reply, error) {
	r, err := c.receive(time.Time{})
	if err == nil && r.kind != kind {
		err = errors.New("the worker answered before it was ready")
	}
	return r, err
}

// receive waits for the next reply, until deadline. The error is io.EOF when
// the worker has ended.
func (c *Channel) receive(deadline time.Time) (reply, error) {
	if err := c.conn.SetReadDeadline(deadline); err != nil {
		return reply{}, err
	}
	// One byte more, to detect longer packets. The kernel closes files that come along, as
	// there is no buffer for them.
	var b [maxReply + 1]byte
	n, err := c.conn.Read(b[:])
	if errors.Is(err, unix.ECONNRESET) {
		return reply{}, io.EOF
	}
	if err != nil {
		return reply{}, err
	}
	return parseReply(b[:n])
}

// Apply has the worker take new material, and waits for its reply. Only after nil,
// ErrNoWorker and *RefusedError is it known which settings it has.
func (c *Channel) Apply(material *os.File, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	c.number++
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if err := c.send(material); err != nil {
		return err
	}
	r, err := c.receive(deadline)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the worker did not apply the settings within %v", timeout)
	case errors.Is(err, io.EOF):
		return errors.New("the worker ended before it applied the settings")
	case err != nil:
		return err
	case r.number != c.number || r.kind == replyReady:
		return errors.New("the worker's reply is not about these settings")
	case r.kind == replyRefused:
		return &RefusedError{r.words}
	}
	return nil
}

// send sends material with the present number.
func (c *Channel) send(material *os.File) error {
	_, _, err := c.conn.WriteMsgUnix(binary.BigEndian.AppendUint64(nil, c.number), unix.UnixRights(int(material.Fd())), nil)
	switch {
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		return ErrNoWorker
	case err != nil:
		return fmt.Errorf("sending settings to the worker: %w", err)
	}
	return nil
}

// AwaitWish waits until the worker wishes for a fresh one in its place, because it has grown and is idle. An error means that it
// wishes no more. Wishes that nobody awaits fill a pipe and nothing else.
func (c *Channel) AwaitWish() error {
	var b [1]byte
	_, err := c.wishes.Read(b[:])
	return err
}

// Close closes the supervisor's end, which ends the worker.
func (c *Channel) Close() {
	c.conn.Close()
	c.wishes.Close()
	c.first.Close()
}

// workerChannel is the worker's end.
type workerChannel struct{ conn *net.UnixConn }

func (c workerChannel) send(r reply) error {
	if _, err := c.conn.Write(r.encode()); err != nil {
		return fmt.Errorf("replying to the supervisor: %w", err)
	}
	return nil
}

// begin says that this process is out of reach of others, and waits for the first material.
func (c workerChannel) begin() (*Material, error) {
	if err := c.send(reply{kind: replyHidden}); err != nil {
		return nil, err
	}
	_, f, err := c.receive()
	if err != nil {
		return nil, fmt.Errorf("waiting for the material: %w", err)
	}
	defer f.Close()
	return ReadMaterial(f)
}

// receive waits for the next material and returns its number. The error is
// io.EOF when the supervisor has ended.
func (c workerChannel) receive() (uint64, *os.File, error) {
	var b [9]byte // one more than there can be
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(b[:], oob)
	if err != nil {
		return 0, nil, err
	}
	if n == 0 && oobn == 0 {
		return 0, nil, io.EOF
	}
	files := receivedFiles(oob[:oobn])
	switch {
	case len(files) != 1:
		err = errors.New("the supervisor's message brings no file")
	case n != 8 || flags&unix.MSG_CTRUNC != 0:
		err = errors.New("the supervisor's message is not one of settings")
	default:
		return binary.BigEndian.Uint64(b[:8]), files[0], nil
	}
	CloseAll(files)
	return 0, nil, err
}
