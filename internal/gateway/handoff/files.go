//go:build linux

package handoff

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Start is how a child is started.
type Start struct {
	// Args follow the child's command, Files are its descriptors from firstFile on.
	Args  []string
	Files []*os.File
	// end is the child's end of a socket.
	end *os.File
	// wish is the worker's end of a pipe, nil for other children.
	wish *os.File
}

// Close closes the child's files that the supervisor does not need after the start.
func (s *Start) Close() {
	s.end.Close()
	s.wish.Close()
}

// firstFile is the first descriptor of exec.Cmd.ExtraFiles in the child.
const firstFile = 3

// inherited takes the files of a Start one by one, in their order.
type inherited struct{ taken int }

func (i *inherited) file(name string) *os.File {
	fd := firstFile + i.taken
	i.taken++
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

func (i *inherited) files(name string, n int) []*os.File {
	all := make([]*os.File, n)
	for k := range all {
		all[k] = i.file(name)
	}
	return all
}

func (i *inherited) listener(name string) (net.Listener, error) {
	f := i.file(name)
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("taking over the %s: %w", name, err)
	}
	return ln, nil
}

func (i *inherited) listeners(name string, n int) ([]net.Listener, error) {
	all := make([]net.Listener, n)
	for k := range all {
		var err error
		if all[k], err = i.listener(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Keep returns a file of socket fd, which is open once more then, for children to inherit. Unlike that of
// os.NewFile it is not in the epoll instance of Go's runtime: every connection to a listener would wake this process,
// too. Unlike that of net.TCPListener it never makes the socket block when its descriptor is asked for: a worker of
// another gateway may be accepting.
func Keep(fd int) (*os.File, error) {
	// What blocks when the file is made is not in there.
	place, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	f := os.NewFile(uintptr(place), "listener")
	if err := unix.Dup3(fd, place, unix.O_CLOEXEC); err != nil {
		f.Close()
		return nil, os.NewSyscallError("dup3", err)
	}
	return f, nil
}

// packetSocket returns the supervisor's end of a packet socket and the file that becomes
// the child's.
func packetSocket(child string) (*net.UnixConn, *os.File, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("creating a socket for the %s: %w", child, err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "supervisor")
	ours, err := unixConn(os.NewFile(uintptr(ends[0]), child))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// unixConn turns f into a connection, and closes f.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("opening the socket to the %s: %w", f.Name(), err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("the socket to the %s is not a Unix socket", f.Name())
	}
	return u, nil
}

// memoryFile makes a file that is never on a disk, has fill write it, and forbids changes for
// good, that of the seals included.
func memoryFile(name string, seals int, fill func(*os.File) error) (*os.File, error) {
	fd, err := unix.MemfdCreate("kube-gateway-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("creating a memory file for the %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err = fill(f); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals|unix.F_SEAL_SEAL)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the %s: %w", name, err)
	}
	return f, nil
}
