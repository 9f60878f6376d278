//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A small application for pods with little memory: its connections take nothing but what the
// kernel needs. "small serve PORT" returns what it reads. The others print a smallResult:
// "small idle N ADDRESS" after an exchange over each of N connections, which stay open, unless
// enoughResets of them were refused before,
// "small bulk N ADDRESS SECONDS" after so much time of sending and receiving on all of them, and
// "small hog PROCESSES MIB", which takes so much memory in each process, when that is done.

// enoughResets is how often an application is refused until it gives up: a peer's gateway dials five
// times before it refuses.
const enoughResets = 10

// smallResult counts connections by what became of them.
type smallResult struct {
	// Served had an answer, Reset was refused or reset instead, Failed lists what else happened.
	Served, Reset  int
	Failed         []string
	Sent, Received int64
}

func (r *smallResult) note(err error) {
	switch {
	case err == nil:
		r.Served++
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED):
		r.Reset++
	default:
		r.Failed = append(r.Failed, err.Error())
	}
}

func small(args []string) int {
	runtime.GOMAXPROCS(1)
	var result smallResult
	var err error
	switch number := func(i int) int { n, _ := strconv.Atoi(args[i]); return n }; args[0] {
	case "serve":
		err = smallServe(number(1))
	case "idle":
		for range number(1) {
			fd, err := smallDial(args[2])
			if err == nil {
				err = smallExchange(fd)
			}
			if result.note(err); result.Reset == enoughResets {
				break
			}
		}
	case "bulk":
		err = smallBulk(&result, number(1), args[2], time.Duration(number(3))*time.Second)
	case "hog":
		err = smallHog(number(1), number(2))
	}
	if err != nil {
		result.Failed = append(result.Failed, err.Error())
	}
	_ = json.NewEncoder(os.Stdout).Encode(result)
	if args[0] != "bulk" {
		_ = unix.Pause()
	}
	return 0
}

func smallDial(address string) (int, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
}

func smallExchange(fd int) error {
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		return err
	}
	if _, err := unix.SendmsgN(fd, []byte("hello\n"), nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return err
	}
	var b [16]byte
	n, err := unix.Read(fd, b[:])
	if err == nil && string(b[:max(n, 0)]) != "hello\n" {
		err = fmt.Errorf("received %q", b[:n])
	}
	return err
}

func smallServe(port int) error {
	listener, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(listener, &unix.SockaddrInet6{Port: port})
	}
	if err == nil {
		err = unix.Listen(listener, 1024)
	}
	poll, pollErr := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err = errors.Join(err, pollErr); err == nil {
		err = unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, listener, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(listener)})
	}
	if err != nil {
		return err
	}
	fmt.Println("serving")
	ready, b := make([]unix.EpollEvent, 64), make([]byte, 64<<10)
	for {
		n, err := unix.EpollWait(poll, ready, -1)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, event := range ready[:max(n, 0)] {
			if int(event.Fd) == listener {
				if fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK); err == nil {
					_ = unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
				}
				continue
			}
			// What the client does not read in time is lost: nobody counts it.
			n, err := unix.Read(int(event.Fd), b)
			if n > 0 {
				_, err = unix.SendmsgN(int(event.Fd), b[:n], nil, nil, unix.MSG_NOSIGNAL)
			}
			if n == 0 || err != nil && err != unix.EAGAIN {
				unix.Close(int(event.Fd))
			}
		}
	}
}

func smallBulk(result *smallResult, count int, address string, duration time.Duration) error {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	open := 0
	for range count {
		fd, err := smallDial(address)
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		if err == nil {
			err = unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT, Fd: int32(fd)})
		}
		if err != nil {
			result.note(err)
			continue
		}
		open++
	}
	ready, b := make([]unix.EpollEvent, 64), make([]byte, 64<<10)
	for end := time.Now().Add(duration); open > 0 && time.Now().Before(end); {
		n, err := unix.EpollWait(poll, ready, 500)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, event := range ready[:max(n, 0)] {
			if event.Events&^unix.EPOLLOUT != 0 {
				n, err := unix.Read(int(event.Fd), b)
				result.Received += int64(max(n, 0))
				if n == 0 && err == nil {
					err = errors.New("end of file")
				}
				if err != nil && err != unix.EAGAIN {
					result.note(err)
					unix.Close(int(event.Fd))
					open--
					continue
				}
			}
			if event.Events&unix.EPOLLOUT != 0 {
				if n, err := unix.SendmsgN(int(event.Fd), b, nil, nil, unix.MSG_NOSIGNAL); err == nil {
					result.Sent += int64(n)
				}
			}
		}
	}
	result.Served = open
	return nil
}

// smallHog takes memory in steps in several processes at a time, of which this one is the last.
func smallHog(processes, mib int) error {
	if processes > 1 {
		if err := exec.Command("/proc/self/exe", "small", "hog", strconv.Itoa(processes-1), strconv.Itoa(mib)).Start(); err != nil {
			return err
		}
	}
	for range 8 * mib {
		b, err := unix.Mmap(-1, 0, 128<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}
