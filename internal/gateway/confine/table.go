//go:build linux

package confine

import (
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
)

// Role is what a process does.
type Role uint8

// The roles of a gateway's processes without privilege.
const (
	Worker Role = 1 << iota
	Exporter

	both = Worker | Exporter
)

// rule allows one system call. A call may have several rules, of which one is enough.
type rule struct {
	call  uintptr
	roles Role
	// when are conditions that must all hold. The kernel passes int arguments as their lower 32 bits.
	when []condition
}

// condition is about the lower 32 bits of an argument, after mask.
type condition struct {
	arg  int
	mask uint32
	// values are those that are allowed; with not, those that are refused.
	values []uint32
	not    bool
}

const all = ^uint32(0)

// is demands that an argument is one of values.
func is(arg int, values ...uint32) condition { return condition{arg: arg, mask: all, values: values} }

// isNot demands that it is none of them.
func isNot(arg int, values ...uint32) condition {
	return condition{arg: arg, mask: all, values: values, not: true}
}

// masked demands that an argument has the value where mask has bits.
func masked(arg int, mask, value uint32) condition {
	return condition{arg: arg, mask: mask, values: []uint32{value}}
}

// table returns what a process with this number may call. Nothing here names a file, starts a program,
// or reaches another process.
func table(pid int) []rule {
	self := is(0, uint32(pid))
	rules := []rule{
		// Memory of Go's runtime. Nothing becomes executable after the start.
		{unix.SYS_MMAP, both, []condition{masked(2, unix.PROT_EXEC, 0)}},
		{unix.SYS_MPROTECT, both, []condition{masked(2, unix.PROT_EXEC, 0)}},
		{unix.SYS_MUNMAP, both, nil},
		{unix.SYS_MADVISE, both, nil},
		// Names for that memory, which the runtime gives.
		{unix.SYS_PRCTL, both, []condition{is(0, unix.PR_SET_VMA)}},

		// Threads of this process: no process of its own, no namespace. CLONE_THREAD demands that memory
		// and signal handlers are shared (clone(2)).
		{unix.SYS_CLONE, both, []condition{masked(0, unix.CLONE_THREAD|newNamespaces, unix.CLONE_THREAD)}},
		{unix.SYS_FUTEX, both, nil},
		{unix.SYS_SCHED_YIELD, both, nil},
		{unix.SYS_NANOSLEEP, both, nil},
		{unix.SYS_SCHED_GETAFFINITY, both, nil}, // how many processors there are
		{unix.SYS_GETTID, both, nil},
		{unix.SYS_GETPID, both, nil},
		{unix.SYS_EXIT, both, nil},
		{unix.SYS_EXIT_GROUP, both, nil},

		// Signals: those that the process gets, and those that it sends to its own threads, for the
		// scheduler and where it crashes.
		{unix.SYS_RT_SIGRETURN, both, nil},
		{unix.SYS_RT_SIGPROCMASK, both, nil},
		{unix.SYS_RT_SIGACTION, both, nil},
		{unix.SYS_SIGALTSTACK, both, nil},
		{unix.SYS_RESTART_SYSCALL, both, nil}, // after SIGSTOP and SIGCONT
		{unix.SYS_TGKILL, both, []condition{self}},
		{unix.SYS_KILL, both, []condition{self}},

		// Clocks. The governor has a timer; clock_gettime is a system call where the vDSO lacks the clock.
		{unix.SYS_CLOCK_GETTIME, both, nil},
		{unix.SYS_TIMER_CREATE, Worker, nil},
		{unix.SYS_TIMER_SETTIME, Worker, nil},
		{unix.SYS_TIMER_DELETE, Worker, nil},

		// Random numbers for TLS, maps and the scheduler.
		{unix.SYS_GETRANDOM, both, nil},
		// The version of the kernel, which package net asks for.
		{unix.SYS_UNAME, both, nil},

		// Open files, which are sockets, pipes, the log, and what shows the pod's memory.
		{unix.SYS_READ, both, nil},
		{unix.SYS_WRITE, both, nil},
		{unix.SYS_CLOSE, both, nil},
		{unix.SYS_DUP3, Worker, []condition{is(2, unix.O_CLOEXEC)}}, // sockets are closed by it
		{unix.SYS_FSTAT, Worker, nil},
		{unix.SYS_FCNTL, both, []condition{is(1, unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_SETFD,
			unix.F_DUPFD_CLOEXEC, unix.F_GETPIPE_SZ, unix.F_SETPIPE_SZ)}},
		{unix.SYS_READV, Worker, nil},
		{unix.SYS_WRITEV, Worker, nil},
		{unix.SYS_PREAD64, both, nil},  // settings and the memory; in the exporter the runtime reads its CPU limit
		{unix.SYS_SPLICE, Worker, nil}, // plaintext is relayed in the kernel
		{unix.SYS_PIPE2, Worker, nil},  // for that
		{unix.SYS_IOCTL, Worker, []condition{is(1, unix.SIOCINQ, unix.SIOCATMARK, unix.SIOCOUTQ)}},
		{unix.SYS_EPOLL_CREATE1, both, nil},
		{unix.SYS_EPOLL_CTL, both, nil},
		{unix.SYS_EPOLL_PWAIT, both, nil},
		{unix.SYS_EVENTFD2, both, nil},
		{unix.SYS_PPOLL, Worker, nil},

		// Sockets that are open or accepted. The exporter has no other ones.
		{unix.SYS_ACCEPT4, both, nil},
		{unix.SYS_GETSOCKNAME, both, nil},
		{unix.SYS_GETPEERNAME, both, nil},
		{unix.SYS_SHUTDOWN, both, nil},
		{unix.SYS_GETSOCKOPT, both, nil},
		// Options of IP and those that the eBPF programs answer. No filter, which the kernel would compile,
		// replaces what the supervisor has put on a socket; no other protocol runs above TCP.
		{unix.SYS_SETSOCKOPT, both, []condition{is(1, unix.IPPROTO_IP, unix.IPPROTO_IPV6, bpf.SockoptLevel)}},
		{unix.SYS_SETSOCKOPT, both, []condition{is(1, unix.IPPROTO_TCP), isNot(2, unix.TCP_ULP)}},
		{unix.SYS_SETSOCKOPT, both, []condition{is(1, unix.SOL_SOCKET), isNot(2, unix.SO_ATTACH_FILTER,
			unix.SO_DETACH_FILTER, unix.SO_ATTACH_BPF, unix.SO_ATTACH_REUSEPORT_CBPF, unix.SO_ATTACH_REUSEPORT_EBPF)}},
		{unix.SYS_RECVFROM, Worker, nil},
		{unix.SYS_SENDTO, Worker, nil},
		{unix.SYS_RECVMSG, Worker, nil},
		{unix.SYS_SENDMSG, Worker, nil},

		// Sockets of its own are those of TCP. They connect, and nothing can connect to them: there is no
		// listen(2).
		{unix.SYS_SOCKET, Worker, []condition{
			is(0, unix.AF_INET, unix.AF_INET6),
			masked(1, ^uint32(unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), unix.SOCK_STREAM),
			is(2, 0, unix.IPPROTO_TCP),
		}},
		{unix.SYS_BIND, Worker, nil},
		{unix.SYS_CONNECT, Worker, nil},
	}
	return append(rules, archRules()...)
}

// newNamespaces are the flags of clone(2) for new namespaces, CLONE_NEWTIME aside, which clone(2)
// does not know.
const newNamespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS |
	unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS
