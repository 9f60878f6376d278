//go:build linux

package proxy

import (
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// awaitStuck waits until nothing that client sends moves any more: every buffer on the way is
// full.
func awaitStuck(t *testing.T, client *testPod) {
	t.Helper()
	var before uint64
	eventually(t, "the sender to be stuck", func() bool {
		now := client.proxy.Traffic().Outbound.Sent
		stuck := now > 0 && now == before
		before = now
		time.Sleep(100 * time.Millisecond)
		return stuck
	})
}

// runInNamespace runs the calling test again in a network namespace of its own,
// if this is root and has tool.
func runInNamespace(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil || os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("needs root and %s", tool)
		}
		t.Skipf("skipped: needs root and %s", tool)
	}
	runAsChild(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET})
}

func loopbackUp(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		t.Fatal(err)
	}
}

// A RST is noticed even while the relay waits for the other side to read.
func TestResetIsNoticedWhileBlocked(t *testing.T) {
	client, server := pair(t, func(o *Options) { o.sweep = 50 * time.Millisecond })
	destination, accept := collect(t, server.ip)
	near := client.dial(destination)
	far := accept()
	go func() { _, _ = io.Copy(near, patternReader(1, 64<<20)) }()
	awaitStuck(t, client)
	reset(near)
	// Nobody reads meanwhile, so that nothing but the sweeper can notice.
	client.logged("the reset", func(c api.Connection) bool { return strings.Contains(c.Error, errReset.Error()) })
	expectReset(t, far)
}

func TestPeerSocketsHaveKeepAlive(t *testing.T) {
	client, server := pair(t, func(o *Options) { o.sweep = 50 * time.Millisecond })
	destination, accept := collect(t, server.ip)
	client.dial(destination)
	accept()
	want := map[string]int{"on": 1, "idle": 7200, "interval": 75, "count": 9, "nodelay": 1}
	for name, p := range map[string]*testPod{"dialled": client, "accepted": server} {
		eventually(t, "the options of the "+name+" socket", func() bool {
			for _, c := range p.proxy.live.snapshot() {
				if c.relaying.Load() == 2 && maps.Equal(options(t, c.wire), want) {
					return true
				}
			}
			return false
		})
	}
}

// options returns what the kernel has for a socket.
func options(t *testing.T, socket stream) map[string]int {
	t.Helper()
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	if err := raw.Control(func(fd uintptr) {
		got["on"], _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		got["idle"], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		got["interval"], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
		got["count"], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
		got["nodelay"], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY)
	}); err != nil {
		t.Fatal(err)
	}
	return got
}
