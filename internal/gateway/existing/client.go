//go:build linux

package existing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// errInside says that a client is a process of the pod.
var errInside = errors.New("the client is a process of the pod")

// Outside returns nil if the client of an accepted connection over loopback, between local and remote
// of the accepting end, is a process of the node and not of the pod with this cgroup. It asks the
// kernel in which cgroup the client's socket was made.
func Outside(local, remote netip.AddrPort, pod string) error {
	client, err := sockDiag{}.find(remote, local)
	if err != nil {
		return fmt.Errorf("finding the client's socket: %w", err)
	}
	path, err := cgroupPath(client.cgroup, pod)
	if err != nil {
		return fmt.Errorf("finding the client's cgroup: %w", err)
	}
	if path == pod || strings.HasPrefix(path, pod+"/") {
		return errInside
	}
	return nil
}

// find returns the connected socket of IPv4 with these addresses.
func (sockDiag) find(local, remote netip.AddrPort) (*socket, error) {
	r := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	r.AddRawData(request(unix.AF_INET, 1<<tcpEstablished, socketID(local, remote)))
	answers, err := r.Execute(unix.NETLINK_SOCK_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return nil, err
	}
	if len(answers) == 0 {
		return nil, errGone
	}
	found, err := parse(answers[0])
	if err != nil {
		return nil, err
	}
	// Where there is none, the kernel may answer with a listener.
	if found.local != local || found.remote != remote {
		return nil, errGone
	}
	return found, nil
}

// noCookie stands for any cookie (INET_DIAG_NOCOOKIE).
const noCookie = 0xffffffff

// socketID returns the struct inet_diag_sockid of a socket of IPv4 whose cookie is unknown.
func socketID(local, remote netip.AddrPort) (id [sizeofID]byte) {
	from, to := local.Addr().As4(), remote.Addr().As4()
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:], from[:])
	copy(id[20:], to[:])
	binary.NativeEndian.PutUint32(id[40:], noCookie)
	binary.NativeEndian.PutUint32(id[44:], noCookie)
	return id
}

// fileIDKernfs is the type of handles of cgroup2's directories (FILEID_KERNFS, linux/exportfs.h).
const fileIDKernfs = 0xfe

// cgroupPath returns the path of the cgroup with this ID. beside is a path in the same hierarchy. A
// cgroup that was removed is an error.
func cgroupPath(id uint64, beside string) (string, error) {
	if id == 0 {
		return "", errors.New("the kernel does not report it")
	}
	mount, err := unix.Open(beside, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(mount)
	handle := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(mount, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", os.NewSyscallError("open_by_handle_at", err)
	}
	defer unix.Close(fd)
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return filepath.Clean(path), err
}
