//go:build linux

package proxy

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// pipeSize is how much a pipe may hold, in bytes: what an unprivileged process gets at most
// (fs.pipe-max-size).
const pipeSize = 1 << 20

// pipe is what splice(2) needs between two sockets.
type pipe struct{ from, to int }

// pipe returns an empty pipe, or nil if there is none to be had. The pool drops those that nobody needs.
func (p *bufferPools) pipe() *pipe {
	if pooled, ok := p.pipes.Get().(*pipe); ok {
		return pooled
	}
	var ends [2]int
	if unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	// A smaller one will do.
	_, _ = unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, pipeSize)
	made := &pipe{from: ends[0], to: ends[1]}
	runtime.AddCleanup(made, func(ends [2]int) {
		_ = unix.Close(ends[0])
		_ = unix.Close(ends[1])
	}, ends)
	return made
}

// splice moves up to n bytes that are queued at from to another stream, within the kernel. It moves fewer where
// urgent data is in the way, or the end.
func (p *Proxy) splice(to, from stream, n int) (moved int, err error) {
	through := p.pools.pipe()
	if through == nil {
		return 0, nil
	}
	out, err := to.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("reaching the socket: %w", err)
	}
	for moved < n {
		var in int
		if err := onSocket(from, func(fd int) (err error) {
			in, err = spliceOnce(through.to, fd, min(n-moved, pipeSize))
			return err
		}); err != nil || in == 0 {
			p.pools.pipes.Put(through)
			return moved, err
		}
		var failed error
		if err := out.Write(func(fd uintptr) bool {
			for in > 0 && failed == nil {
				var m int
				if m, failed = spliceOnce(int(fd), through.from, in); m == 0 && failed == nil {
					return false
				}
				in -= m
				moved += m
			}
			return true
		}); err != nil {
			failed = err
		}
		if failed != nil {
			// What is left in the pipe goes with it.
			return moved, failed
		}
	}
	p.pools.pipes.Put(through)
	return moved, nil
}

// spliceOnce is splice(2), repeated after EINTR. 0 is that there is nothing to move, or no room for it.
func spliceOnce(to, from, n int) (int, error) {
	for {
		m, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_NONBLOCK)
		switch err {
		case nil:
			return int(m), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, os.NewSyscallError("splice", err)
		}
	}
}
