//go:build linux

package fidelity

import (
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is a system call for an agent to make, or a few that belong together. Which fields count
// depends on Name.
type call struct {
	ID   int
	Name string
	FD   int            `json:",omitempty"`
	Addr netip.AddrPort `json:",omitzero"`
	// Family, Level, Option and Flags are the kernel's numbers.
	Family, Level, Option, Flags int `json:",omitempty"`
	// N is a value, or a number of bytes.
	N    int           `json:",omitempty"`
	Data []byte        `json:",omitempty"`
	Wait time.Duration `json:",omitempty"`
}

// result is what a call returned. N is a number of bytes, a descriptor, events or a value.
type result struct {
	ID    int
	Errno syscall.Errno  `json:",omitempty"`
	N     int            `json:",omitempty"`
	Addr  netip.AddrPort `json:",omitzero"`
	Data  []byte         `json:",omitempty"`
	Wire  []wireSocket   `json:",omitempty"`
	Took  time.Duration  `json:",omitempty"`
}

// Agent makes the system calls that it reads from in, each as soon as it is read, and writes their
// results to out. It returns at the end of in.
func Agent(in io.Reader, out io.Writer) error {
	d := json.NewDecoder(in)
	var mu sync.Mutex
	e := json.NewEncoder(out)
	for {
		var c call
		if err := d.Decode(&c); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		go func() {
			start := time.Now()
			r := undisturbed(&c)
			r.ID, r.Took = c.ID, time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			_ = e.Encode(r) // who asked has gone
		}()
	}
}

// undisturbed makes a call on a thread that takes no signals. Go's scheduler sends its threads SIGURG, which ends some waits of
// the kernel before their time, that of close(2) for what lingers, for one.
func undisturbed(c *call) result {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return failure(err)
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	return calls[c.Name](c)
}

// calls are the calls by name.
var calls = map[string]func(*call) result{
	"socket": func(c *call) result {
		return number(unix.Socket(c.Family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, c.N))
	},
	"bind":    func(c *call) result { return failure(unix.Bind(c.FD, sockaddr(c.Family, c.Addr))) },
	"listen":  func(c *call) result { return failure(unix.Listen(c.FD, c.N)) },
	"connect": func(c *call) result { return failure(unix.Connect(c.FD, sockaddr(c.Family, c.Addr))) },
	"disconnect": func(c *call) result {
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(c.FD), uintptr(unsafe.Pointer(&unix.RawSockaddrInet4{Family: unix.AF_UNSPEC})), unix.SizeofSockaddrInet4)
		return result{Errno: errno}
	},
	"accept":      accept,
	"getsockname": func(c *call) result { return address(unix.Getsockname(c.FD)) },
	"getpeername": func(c *call) result { return address(unix.Getpeername(c.FD)) },
	"send":        send,
	"fill":        fill,
	"recv":        recv,
	"drain":       drain,
	"shutdown":    func(c *call) result { return failure(unix.Shutdown(c.FD, c.N)) },
	"close":       func(c *call) result { return failure(unix.Close(c.FD)) },
	"nonblock":    func(c *call) result { return failure(unix.SetNonblock(c.FD, c.N != 0)) },
	"set":         func(c *call) result { return failure(unix.SetsockoptInt(c.FD, c.Level, c.Option, c.N)) },
	"setstring": func(c *call) result {
		return failure(unix.SetsockoptString(c.FD, c.Level, c.Option, string(c.Data)))
	},
	"linger": func(c *call) result {
		return failure(unix.SetsockoptLinger(c.FD, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(c.N)}))
	},
	"get": func(c *call) result { return number(unix.GetsockoptInt(c.FD, c.Level, c.Option)) },
	"getstring": func(c *call) result {
		s, err := unix.GetsockoptString(c.FD, c.Level, c.Option)
		return result{Errno: errnoOf(err), Data: []byte(s)}
	},
	"getbytes": func(c *call) result {
		data := make([]byte, c.N)
		n := uint32(len(data))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(c.FD), uintptr(c.Level), uintptr(c.Option),
			uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(unsafe.Pointer(&n)), 0)
		return result{Errno: errno, Data: data[:n]}
	},
	"ioctl": func(c *call) result {
		return c.until(func(fd int) (int, error) { return unix.IoctlGetInt(fd, uint(c.Option)) })
	},
	"state":    func(c *call) result { return c.until(state) },
	"poll":     pollOnce,
	"await":    awaitEvents,
	"sendfile": sendfile,
	"splice":   splice,
	"unsplice": unsplice,
	"wire":     wire,
}

func failure(err error) result            { return result{Errno: errnoOf(err)} }
func number(n int, err error) result      { return result{N: n, Errno: errnoOf(err)} }
func errnoOf(err error) (e syscall.Errno) { e, _ = err.(syscall.Errno); return e }
func address(a unix.Sockaddr, err error) result {
	r := failure(err)
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		r.Addr = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		r.Addr = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return r
}

func sockaddr(family int, a netip.AddrPort) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// ready waits until the socket has one of events, an error or a hang-up, for c.Wait at most.
func (c *call) ready(events int16) (int16, bool) {
	set := []unix.PollFd{{Fd: int32(c.FD), Events: events}}
	for end := time.Now().Add(c.Wait); ; {
		n, err := unix.Poll(set, int(max(0, time.Until(end)).Milliseconds()))
		if err != unix.EINTR {
			return set[0].Revents, n > 0
		}
	}
}

func accept(c *call) result {
	if _, ok := c.ready(unix.POLLIN); !ok {
		return result{Errno: unix.ETIME}
	}
	fd, a, err := unix.Accept4(c.FD, unix.SOCK_CLOEXEC)
	r := address(a, err)
	r.N = fd
	return r
}

// send sends Data, or N bytes of the pattern.
func send(c *call) result {
	if len(c.Data) > 0 || c.N == 0 {
		n, err := unix.SendmsgN(c.FD, c.Data, nil, sockaddrOrNil(c), c.Flags|unix.MSG_NOSIGNAL)
		return number(n, err)
	}
	var sent int
	for sent < c.N {
		n, err := unix.SendmsgN(c.FD, pattern(sent, min(c.N-sent, 64<<10)), nil, nil, c.Flags|unix.MSG_NOSIGNAL)
		if err != nil {
			return number(sent, err)
		}
		sent += n
	}
	return result{N: sent}
}

func sockaddrOrNil(c *call) unix.Sockaddr {
	if !c.Addr.IsValid() {
		return nil
	}
	return sockaddr(c.Family, c.Addr)
}

// pattern returns n bytes of a stream that never repeats within a buffer, from offset.
func pattern(offset, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((offset + i) % 251)
	}
	return b
}

// fill sends the pattern until the socket has taken nothing for a moment.
func fill(c *call) result {
	var sent int
	c.Wait = 2 * time.Second
	for {
		n, err := unix.SendmsgN(c.FD, pattern(sent, 64<<10), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		sent += max(0, n)
		if err == unix.EAGAIN {
			if _, ok := c.ready(unix.POLLOUT); !ok {
				return result{N: sent}
			}
		} else if err != nil {
			return number(sent, err)
		}
	}
}

// recv waits for data, the end or an error, and receives up to N bytes.
func recv(c *call) result {
	events := int16(unix.POLLIN)
	if c.Flags&unix.MSG_OOB != 0 {
		events = unix.POLLPRI
	}
	if c.Wait > 0 {
		if _, ok := c.ready(events); !ok {
			return result{Errno: unix.ETIME}
		}
	}
	b := make([]byte, c.N)
	n, _, err := unix.Recvfrom(c.FD, b, c.Flags)
	if c.Flags&unix.MSG_TRUNC != 0 {
		return number(n, err)
	}
	return result{N: max(0, n), Data: b[:max(0, n)], Errno: errnoOf(err)}
}

// drain receives the pattern until its end, or N bytes of it. A byte that is not of the pattern is
// EBADMSG.
func drain(c *call) result {
	var total int
	b := make([]byte, 64<<10)
	for c.N == 0 || total < c.N {
		if _, ok := c.ready(unix.POLLIN); !ok {
			return number(total, unix.ETIME)
		}
		room := b
		if c.N > 0 {
			room = b[:min(len(b), c.N-total)]
		}
		n, _, err := unix.Recvfrom(c.FD, room, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			continue
		}
		if err != nil || n == 0 {
			return number(total, err)
		}
		if string(b[:n]) != string(pattern(total, n)) {
			return number(total, unix.EBADMSG)
		}
		total += n
	}
	return result{N: total}
}

// until waits until what returns N, for c.Wait at most.
func (c *call) until(what func(fd int) (int, error)) result {
	for end := time.Now().Add(c.Wait); ; time.Sleep(5 * time.Millisecond) {
		n, err := what(c.FD)
		if err != nil || n == c.N || !time.Now().Before(end) {
			return number(n, err)
		}
	}
}

func state(fd int) (int, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return int(info.State), nil
}

// pollOnce returns the events among Flags, once there is one or Wait is over.
func pollOnce(c *call) result {
	events, ok := c.ready(int16(c.Flags))
	if !ok {
		return result{Errno: unix.ETIME}
	}
	return result{N: int(events)}
}

// awaitEvents waits until all events of Flags are there.
func awaitEvents(c *call) result {
	for end := time.Now().Add(c.Wait); ; time.Sleep(5 * time.Millisecond) {
		set := []unix.PollFd{{Fd: int32(c.FD), Events: int16(c.Flags)}}
		if _, err := unix.Poll(set, 0); err == nil && int(set[0].Revents)&c.Flags == c.Flags {
			return result{N: int(set[0].Revents)}
		}
		if time.Now().After(end) {
			return result{Errno: unix.ETIME, N: int(set[0].Revents)}
		}
	}
}

// sendfile sends N bytes of the pattern from a file.
func sendfile(c *call) result {
	f, err := os.CreateTemp("", "fidelity-")
	if err != nil {
		return failure(unix.EIO)
	}
	defer f.Close()
	os.Remove(f.Name())
	if _, err := f.WriteAt(pattern(0, c.N), 0); err != nil {
		return failure(unix.EIO)
	}
	var sent int
	for sent < c.N {
		n, err := unix.Sendfile(c.FD, int(f.Fd()), nil, c.N-sent)
		if err != nil {
			return number(sent, err)
		}
		sent += n
	}
	return result{N: sent}
}

// splice moves Data from a pipe to the socket.
func splice(c *call) result {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return failure(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	if _, err := unix.Write(p[1], c.Data); err != nil {
		return failure(err)
	}
	n, err := unix.Splice(p[0], nil, c.FD, nil, len(c.Data), 0)
	return number(int(n), err)
}

// unsplice moves up to N bytes from the socket to a pipe.
func unsplice(c *call) result {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return failure(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	if _, ok := c.ready(unix.POLLIN); !ok {
		return result{Errno: unix.ETIME}
	}
	n, err := unix.Splice(c.FD, nil, p[1], nil, c.N, 0)
	if err != nil || n <= 0 {
		return number(0, err)
	}
	b := make([]byte, n)
	m, err := unix.Read(p[0], b)
	return result{N: m, Data: b[:max(0, m)], Errno: errnoOf(err)}
}
