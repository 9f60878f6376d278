//go:build linux

package confine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestMain lets the test binary be a process that confines itself, as nothing undoes that.
func TestMain(m *testing.M) {
	helpers := map[string]func(args []string) error{
		"attempts": attempt, "landlock": landlocked, "work": work, "crash": crash,
	}
	if len(os.Args) > 2 {
		if helper, ok := helpers[os.Args[1]]; ok {
			if err := helper(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// roles are as the helpers are told.
var roles = map[string]Role{"worker": Worker, "exporter": Exporter}

func helper(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{}
	return cmd
}

// prepare forbids a gain of privileges, as the supervisor does.
func prepare() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// try calls each of attempts, and prints how it fails.
func try(attempts map[string]func() error) error {
	results := map[string]string{}
	for name, call := range attempts {
		results[name] = "ok"
		if err := call(); err != nil {
			results[name] = err.Error()
			if errno := syscall.Errno(0); errors.As(err, &errno) {
				results[name] = unix.ErrnoName(errno)
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

// tried returns what a helper that calls try has printed.
func tried(t *testing.T, args ...string) map[string]string {
	t.Helper()
	var stderr strings.Builder
	cmd := helper(args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, stderr.String())
	}
	var results map[string]string
	must.Do(t, json.Unmarshal(out, &results))
	return results
}

func raw(call uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.Syscall6(call, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

func openSocket(domain, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(domain, kind, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

// attempt tries what nobody needs, confined or "free".
func attempt(args []string) error {
	parent := uintptr(os.Getppid())
	stream, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "confine-")
	if err != nil {
		return err
	}
	os.Remove(file.Name())
	if role, ok := roles[args[0]]; ok {
		if err := prepare(); err != nil {
			return err
		}
		if c, err := Apply(role); err != nil || !c.Seccomp {
			return fmt.Errorf("%+v, %w", c, err)
		}
	}
	const none = ^uintptr(0) // no file
	return try(map[string]func() error{
		"execve":   func() error { return unix.Exec("/nonexistent", nil, nil) },
		"execveat": raw(unix.SYS_EXECVEAT, none),
		"fork":     raw(unix.SYS_CLONE, unix.CLONE_SIGHAND),
		"namespace of a thread": raw(unix.SYS_CLONE,
			unix.CLONE_THREAD|unix.CLONE_SIGHAND|unix.CLONE_NEWNS|unix.CLONE_FS),
		"unshare": func() error { return unix.Unshare(0) },
		"setns":   raw(unix.SYS_SETNS, none),

		"ptrace":            raw(unix.SYS_PTRACE, unix.PTRACE_CONT, parent),
		"process_vm_readv":  raw(unix.SYS_PROCESS_VM_READV, parent),
		"process_vm_writev": raw(unix.SYS_PROCESS_VM_WRITEV, parent),
		"process_madvise":   raw(unix.SYS_PROCESS_MADVISE, none),
		"kcmp":              raw(unix.SYS_KCMP, parent, parent, 1, 0, 0),
		"kill":              raw(unix.SYS_KILL, parent, 0),
		"kill all":          raw(unix.SYS_KILL, none, 99),
		"tgkill":            raw(unix.SYS_TGKILL, parent, parent, 0),
		"rt_sigqueueinfo":   raw(unix.SYS_RT_SIGQUEUEINFO, parent, 0, 0),
		"pidfd_open":        raw(unix.SYS_PIDFD_OPEN, parent, 0),
		"pidfd_getfd":       raw(unix.SYS_PIDFD_GETFD, none),
		"pidfd_send_signal": raw(unix.SYS_PIDFD_SEND_SIGNAL, none),
		"signals of files":  raw(unix.SYS_FCNTL, uintptr(stream), unix.F_SETOWN, parent),
		"leases":            raw(unix.SYS_FCNTL, file.Fd(), unix.F_SETLEASE, unix.F_UNLCK),

		"openat":            func() error { _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); return err },
		"open_by_handle_at": raw(unix.SYS_OPEN_BY_HANDLE_AT, none),
		"openat2":           raw(unix.SYS_OPENAT2, none),
		"stat":              func() error { return unix.Stat("/", new(unix.Stat_t)) },
		"unlinkat":          func() error { return unix.Unlink("/nonexistent") },
		"mkdirat":           func() error { return unix.Mkdir("/proc/nonexistent", 0) },
		"chdir":             func() error { return unix.Chdir("/") },
		"chroot":            func() error { return unix.Chroot("/nonexistent") },
		"fchmod":            raw(unix.SYS_FCHMOD, file.Fd(), 0o777),
		"getdents":          raw(unix.SYS_GETDENTS64, none),
		"memfd_create":      func() error { _, err := unix.MemfdCreate("x", 0); return err },
		"mount":             raw(unix.SYS_MOUNT),
		"umount2":           func() error { return unix.Unmount("/nonexistent", 0) },
		"move_mount":        raw(unix.SYS_MOVE_MOUNT, none),
		"fsopen":            raw(unix.SYS_FSOPEN),
		"pivot_root":        raw(unix.SYS_PIVOT_ROOT),

		"setuid":                 raw(unix.SYS_SETUID, uintptr(os.Getuid())),
		"capset":                 raw(unix.SYS_CAPSET),
		"personality":            raw(unix.SYS_PERSONALITY, 0xffffffff),
		"dumpable":               raw(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1),
		"another filter":         raw(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL),
		"landlock":               raw(unix.SYS_LANDLOCK_CREATE_RULESET),
		"limits":                 raw(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, 0, 0),
		"priority":               raw(unix.SYS_SETPRIORITY, 0, 0, 0),
		"executable memory":      raw(unix.SYS_MMAP, 0, 4096, unix.PROT_EXEC|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE, none),
		"memory made executable": raw(unix.SYS_MPROTECT, 0, 0, unix.PROT_READ|unix.PROT_EXEC),

		"bpf":             raw(unix.SYS_BPF, unix.BPF_PROG_LOAD),
		"keyctl":          raw(unix.SYS_KEYCTL, 99),
		"add_key":         raw(unix.SYS_ADD_KEY),
		"request_key":     raw(unix.SYS_REQUEST_KEY),
		"io_uring_setup":  raw(unix.SYS_IO_URING_SETUP, 1),
		"userfaultfd":     raw(unix.SYS_USERFAULTFD, 99),
		"perf_event_open": raw(unix.SYS_PERF_EVENT_OPEN),
		"finit_module":    raw(unix.SYS_FINIT_MODULE, none),
		"kexec_load":      raw(unix.SYS_KEXEC_LOAD, 0, 0, 0, 99),
		"reboot":          raw(unix.SYS_REBOOT, 0, 0, 0, 0),
		"sethostname":     raw(unix.SYS_SETHOSTNAME, 0, none),
		"clock_settime":   raw(unix.SYS_CLOCK_SETTIME, 99),
		"add swap":        raw(unix.SYS_SWAPON),
		"syslog":          raw(unix.SYS_SYSLOG, 99),

		"socket unix":    openSocket(unix.AF_UNIX, unix.SOCK_STREAM, 0),
		"socket netlink": openSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE),
		"socket packet":  openSocket(unix.AF_PACKET, unix.SOCK_RAW, 0),
		"socket vsock":   openSocket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		"socket alg":     openSocket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		"socket udp":     openSocket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0),
		"socket raw":     openSocket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_TCP),
		"socket sctp":    openSocket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP),
		"socketpair":     func() error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"listen":         raw(unix.SYS_LISTEN, uintptr(stream), 1),
		"filter of a socket": func() error {
			return unix.SetsockoptInt(stream, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		},
		"protocol above TCP": func() error { return unix.SetsockoptString(stream, unix.IPPROTO_TCP, unix.TCP_ULP, "tls") },
		"options of packet sockets": func() error {
			return unix.SetsockoptInt(stream, unix.SOL_PACKET, unix.PACKET_VERSION, 0)
		},
		"interfaces": raw(unix.SYS_IOCTL, uintptr(stream), unix.SIOCGIFCONF, 0),

		"clone3":    raw(unix.SYS_CLONE3),
		"a new one": raw(newestCall + 1),
	})
}

// notImplemented are attempts that are to fail as on a kernel without the call.
var notImplemented = []string{"clone3", "a new one"}

// TestForbidden: a confined process can do none of what it does not need.
func TestForbidden(t *testing.T) {
	for role := range roles {
		got := tried(t, "attempts", role)
		want := map[string]string{}
		for name := range got {
			want[name] = "EPERM"
		}
		for _, name := range notImplemented {
			want[name] = "ENOSYS"
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", role, diff)
		}
	}
}

// TestAttempts: without confinement they fail for another reason, or not at all.
func TestAttempts(t *testing.T) {
	must.BeRoot(t, "to be refused nothing")
	// Some kernels are set to refuse these to everyone.
	refused := []string{"bpf", "finit_module", "io_uring_setup", "kexec_load", "perf_event_open", "syslog", "userfaultfd"}
	for name, result := range tried(t, "attempts", "free") {
		if result == "EPERM" && !slices.Contains(refused, name) {
			t.Errorf("%s: EPERM", name)
		}
	}
}

// landlocked tries what Landlock alone refuses.
func landlocked(args []string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	other, err := net.Listen("unix", fmt.Sprintf("@confine-test-%d", os.Getpid()))
	if err != nil {
		return err
	}
	open, err := os.CreateTemp("", "confine-")
	if err != nil {
		return err
	}
	defer os.Remove(open.Name())
	// Threads that exist before are confined, too.
	var started, end sync.WaitGroup
	lateOpen := make(chan error)
	started.Add(1)
	end.Go(func() {
		runtime.LockOSThread()
		started.Done()
		<-lateOpen
		_, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
		lateOpen <- err
	})
	started.Wait()
	if err := prepare(); err != nil {
		return err
	}
	abi, err := restrictSelf(roles[args[0]])
	if err != nil {
		return err
	}
	bind := func(port int) func() error {
		return func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
		}
	}
	return try(map[string]func() error{
		"abi":                  func() error { return fmt.Errorf("%d", abi) },
		"read":                 func() error { _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); return err },
		"read, another thread": func() error { lateOpen <- nil; return <-lateOpen },
		"write":                func() error { _, err := unix.Open("/dev/null", unix.O_WRONLY, 0); return err },
		"list":                 func() error { _, err := os.ReadDir("/"); return err },
		"exec":                 func() error { return exec.Command("/proc/self/exe", "-test.run=^$").Run() },
		"open files":           func() error { _, err := open.WriteString("x"); return err },
		"bind":                 bind(31999),
		"bind to any port":     bind(0),
		"connect": func() error {
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err == nil {
				conn.Close()
			}
			return err
		},
		"signals among threads": func() error {
			return unix.Tgkill(os.Getpid(), os.Getpid(), 0)
		},
		"abstract socket": func() error {
			conn, err := net.Dial("unix", other.Addr().String())
			if err == nil {
				conn.Close()
			}
			return err
		},
	})
}

// TestLandlock: what Landlock refuses, without the filter of system calls, where the kernel has it.
func TestLandlock(t *testing.T) {
	for role, r := range roles {
		got := tried(t, "landlock", role)
		var abi int
		fmt.Sscan(got["abi"], &abi)
		refusedFrom := func(first int) string {
			if abi >= first {
				return "EACCES"
			}
			return "ok"
		}
		want := map[string]string{
			"abi": got["abi"], "open files": "ok", "signals among threads": "ok", "abstract socket": "ok",
			"read": refusedFrom(1), "read, another thread": refusedFrom(1), "write": refusedFrom(1), "list": refusedFrom(1),
			"exec": refusedFrom(1), "bind": refusedFrom(4), "bind to any port": "ok", "connect": "ok",
		}
		if r == Exporter {
			want["bind to any port"], want["connect"] = refusedFrom(4), refusedFrom(4)
		}
		if abi >= 6 {
			want["abstract socket"] = "EPERM"
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", role, diff)
		}
	}
}

// deadly is a filter that kills the process where the real one refuses a call.
func deadly(role Role) []bpf.Instruction {
	program := filter(ofRole(table(os.Getpid()), role))
	for i, instruction := range program {
		if instruction == refused.code() {
			program[i] = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
		}
	}
	return program
}

// work does what Go's runtime does and what a role needs, with a filter that kills.
func work(args []string) error {
	role := roles[args[0]]
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		return err
	}
	ticks := make(chan os.Signal, 1)
	signal.Notify(ticks, syscall.SIGUSR1)
	if err := prepare(); err != nil {
		return err
	}
	if _, err := restrictSelf(role); err != nil {
		return err
	}
	if err := install(deadly(role)); err != nil {
		return err
	}
	runtime.GOMAXPROCS(4)
	var running sync.WaitGroup
	stop := make(chan struct{})
	for range 3 { // the scheduler preempts loops by signals
		running.Go(func() {
			for n := uint64(0); ; n++ {
				if n&0xfffff == 0 {
					select {
					case <-stop:
						return
					default:
					}
				}
			}
		})
	}
	for range 20 { // new threads
		running.Go(func() {
			runtime.LockOSThread()
			time.Sleep(time.Millisecond)
		})
	}
	var garbage [20][]byte
	for n := range 60 {
		garbage[n%len(garbage)] = make([]byte, 1<<20)
		if n%len(garbage) == 0 {
			clear(garbage[:])
			runtime.GC()
		}
	}
	debug.SetMemoryLimit(32 << 20)
	debug.FreeOSMemory()
	if err := unix.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		return err
	}
	<-ticks
	func() { // a signal of the processor
		defer func() { recover() }()
		var nothing *[1 << 20]byte
		nothing[1<<19]++
	}()
	runtime.GOMAXPROCS(1)
	runtime.GOMAXPROCS(4)
	close(stop)
	running.Wait()
	if role == Worker {
		return relay(ln)
	}
	fmt.Println("done")
	return nil
}

// relay carries bytes over sockets of its own.
func relay(ln net.Listener) error {
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(conn, conn) // by splice
				conn.Close()
			}()
		}
	}()
	address := ln.Addr().(*net.TCPAddr)
	for _, ip := range []net.IP{net.IPv4(127, 0, 0, 2), net.IPv6loopback} {
		if ip.To4() == nil && address.IP.To4() != nil {
			continue // there is no IPv6 here
		}
		if err := exchange(&net.TCPAddr{IP: ip}, &net.TCPAddr{IP: ip, Port: address.Port}); err != nil {
			return err
		}
	}
	fmt.Println("done")
	return nil
}

func exchange(from, to *net.TCPAddr) error {
	d := net.Dialer{LocalAddr: from, Timeout: time.Minute}
	d.SetMultipathTCP(false)
	conn, err := d.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	tcp := conn.(*net.TCPConn)
	tcp.SetDeadline(time.Now().Add(time.Minute))
	go func() {
		tcp.ReadFrom(strings.NewReader(strings.Repeat("x", 1<<20)))
		tcp.CloseWrite()
	}()
	n, err := io.Copy(io.Discard, conn)
	if err != nil || n != 1<<20 {
		return fmt.Errorf("%d bytes, %w", n, err)
	}
	return nil
}

// TestWork: a confined process works.
func TestWork(t *testing.T) {
	for role := range roles {
		out, err := helper("work", role).CombinedOutput()
		if err != nil || string(out) != "done\n" {
			t.Errorf("%s: %v\n%s", role, err, out)
		}
	}
}

// crash ends a confined process in one of several ways.
func crash(args []string) error {
	if err := HideMemory(); err != nil {
		return err
	}
	if err := prepare(); err != nil {
		return err
	}
	if err := install(deadly(Worker)); err != nil {
		return err
	}
	switch args[0] {
	case "panic":
		panic("a bug")
	case "abort":
		debug.SetTraceback("crash")
		panic("a bug")
	default:
		return unix.Kill(os.Getpid(), syscall.SIGQUIT)
	}
}

// TestCrash: a confined process says why it ends.
func TestCrash(t *testing.T) {
	for _, c := range []struct{ how, says, state string }{
		{"panic", "panic: a bug", "exit status 2"},
		{"abort", "panic: a bug", "signal: aborted"},
		{"quit", "SIGQUIT: quit", "exit status 2"},
	} {
		cmd := helper("crash", c.how)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.String() != c.state || !strings.Contains(string(out), c.says) || !strings.Contains(string(out), "confine_test.go") {
			t.Errorf("%s: %s\n%s", c.how, cmd.ProcessState, out)
		}
	}
}

// TestFilter: a filter knows its architecture, and what it allows without a condition depends on the number
// alone.
func TestFilter(t *testing.T) {
	rules := table(1)
	vm := must.Get(bpf.NewVM(filter(rules)))(t)
	// answer runs the filter for a call without arguments: it ends with 0 where it asks for one.
	answer := func(call, arch uint32) bpf.Instruction {
		head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, call), arch)
		return bpf.RetConstant{Val: uint32(must.Get(vm.Run(append(head, make([]byte, offsetArgs-len(head))...)))(t))}
	}
	for _, r := range rules {
		want := allowed.code()
		if len(r.when) > 0 {
			want = bpf.RetConstant{}
		}
		if got := answer(uint32(r.call), auditArch); got != want {
			t.Errorf("call %d: %#v, want %#v", r.call, got, want)
		}
		if got := answer(uint32(r.call), unix.AUDIT_ARCH_I386); got != refused.code() {
			t.Errorf("call %d of another architecture: %#v", r.call, got)
		}
	}
	// Those of x32 have a bit of their own.
	if got := answer(1<<30|uint32(unix.SYS_READ), auditArch); got != unknown.code() {
		t.Errorf("a call of x32: %#v", got)
	}
}
