//go:build linux

package existing

import (
	"cmp"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
)

// Holder is a socket that keeps others from listening on a port.
type Holder struct {
	Local, Remote netip.AddrPort
	// Listens tells a listener from a connection. Ended says that the connection has ended, and
	// the kernel keeps its port for a minute (TIME_WAIT).
	Listens, Ended bool
	// Process and PID are its process, empty and 0 if that is in a PID namespace which this
	// process does not see.
	Process string
	PID     int
	// Container is the ID of its container, or the name of a cgroup that shows none; empty if the
	// kernel does not report it.
	Container string
}

// String describes h in the words of an error message.
func (h Holder) String() string {
	var b strings.Builder
	switch {
	case h.Listens:
		fmt.Fprintf(&b, "a listener at %v", h.Local)
	case h.Ended:
		fmt.Fprintf(&b, "a connection from %v to %v, which has ended (TIME_WAIT)", h.Local, h.Remote)
	default:
		fmt.Fprintf(&b, "a connection from %v to %v", h.Local, h.Remote)
	}
	if h.PID != 0 {
		fmt.Fprintf(&b, " of process %d (%s)", h.PID, h.Process)
	}
	if h.Container != "" {
		fmt.Fprintf(&b, " in container %s", h.Container)
	}
	return b.String()
}

// allStates are all states of a TCP socket.
const allStates = ^uint32(0)

// Holders returns the sockets in the network namespace of the calling thread that keep the
// gateway from listening at address, the listeners first. Those of the gateway do not count. A
// socket that is bound, and neither listens nor is connected, is not found before Linux 6.8.
func (f *Finder) Holders(address netip.AddrPort) ([]Holder, error) {
	names, err := containers(f.Pod.Path)
	if err != nil {
		return nil, err
	}
	var holders []Holder
	inodes := make(map[uint32]int) // to an index of holders
	if err := f.system().dump(allStates, func(s *socket) bool {
		if s.local.Port() != address.Port() || !overlap(s.local.Addr(), address.Addr()) || s.cgroup == f.Own.ID && s.cgroup != 0 {
			return true
		}
		if s.inode != 0 {
			inodes[s.inode] = len(holders)
		}
		holders = append(holders, Holder{
			Local: s.local, Remote: s.remote, Listens: s.state == tcpListen, Ended: s.state == tcpTimeWait, Container: names[s.cgroup],
		})
		return true
	}); err != nil {
		return nil, fmt.Errorf("looking for who holds port %d: %w", address.Port(), err)
	}
	nameProcesses("/proc", func(inode uint32, pid int, name string) {
		if i, ok := inodes[inode]; ok {
			holders[i].PID, holders[i].Process = pid, name
		}
	})
	slices.SortStableFunc(holders, func(a, b Holder) int {
		rank := func(h Holder) int {
			switch {
			case h.Listens:
				return 0
			case !h.Ended:
				return 1
			}
			return 2
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
	})
	return holders, nil
}

// overlap reports whether sockets at two local addresses exclude each other on one port.
func overlap(a, b netip.Addr) bool { return a == b || a.IsUnspecified() || b.IsUnspecified() }

// sizeofContainerID is the length of the IDs that containerd, CRI-O and Docker give to containers.
const sizeofContainerID = 64

// containerID returns the container's ID in the name of its cgroup, or else the name. The forms are
// "<ID>", "crio-<ID>" and "cri-containerd-<ID>.scope".
func containerID(name string) string {
	id := strings.TrimSuffix(name, ".scope")
	id = id[strings.LastIndexByte(id, '-')+1:]
	if len(id) != sizeofContainerID {
		return name
	}
	return id
}

// containers returns the containers whose cgroups are right below pod, by the IDs of those cgroups
// and of all that are below them.
func containers(pod string) (map[uint64]string, error) {
	names := make(map[uint64]string)
	err := eachCgroup(pod, func(c bpf.Cgroup) error {
		switch {
		case c.Path == pod:
			return nil
		case len(names) == maxCgroups:
			return fs.SkipAll
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(c.Path, pod+"/"), "/")
		names[c.ID] = containerID(name)
		return nil
	})
	return names, err
}

// nameProcesses calls each with every socket of every process in a proc file system. Processes
// that end meanwhile, or that may not be looked at, are left out.
func nameProcesses(proc string, each func(inode uint32, pid int, name string)) {
	links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		text, ok := strings.CutPrefix(target, "socket:[")
		inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32)
		if !ok || err != nil {
			continue
		}
		process := filepath.Dir(filepath.Dir(link))
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil {
			continue
		}
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err == nil {
			each(uint32(inode), pid, strings.TrimSpace(string(name)))
		}
	}
}
