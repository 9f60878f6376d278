//go:build linux

package netlab_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

func TestMain(m *testing.M) {
	netlab.Helpers{"where": where, "wait": wait, "owner": owner, "fail": func([]string) int { return 7 }}.Run()
	os.Exit(m.Run())
}

// where prints the process's cgroup, network namespace and user.
func where([]string) int {
	cgroups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(cgroups)) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			fmt.Print("cgroup ", p)
		}
	}
	ns, _ := os.Readlink("/proc/self/ns/net")
	fmt.Println("net", ns)
	fmt.Println("user", os.Getuid(), os.Getgid())
	addrs, _ := net.InterfaceAddrs()
	fmt.Println("addresses", addrs)
	return 0
}

// wait prints nothing: it must outlive the owner, which reads what it prints. A program
// without cgo that blocks for good ends as a deadlock.
func wait([]string) int {
	time.Sleep(time.Hour)
	return 0
}

// owner makes a network with a process in it and says so; it is killed then.
func owner([]string) int {
	lab, err := netlab.Open(1, func(string, ...any) {})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	p := lab.Node(0).Start(netlab.Command{Cgroup: lab.Node(0).AppCgroup, Helper: "wait"})
	fmt.Println("made", filepath.Dir(lab.Node(0).PodCgroup), p.Pid)
	io.Copy(io.Discard, os.Stdin)
	return 0
}

func TestNodesReachEachOther(t *testing.T) {
	for _, n := range []int{2, 3} {
		lab := netlab.New(t, n)
		for i, from := range lab.Nodes() {
			to := lab.Node((i + 1) % n)
			for _, addr := range []string{to.Addr(80), to.Addr6(80)} {
				l := must.Get(to.Listen("tcp", addr))(t)
				c, err := from.Dial("tcp", addr)
				if err != nil {
					t.Fatalf("%d nodes: from %d: %v", n, i, err)
				}
				c.Close()
				l.Close()
			}
		}
	}
}

func TestNFT(t *testing.T) {
	lab := netlab.New(t, 2)
	from, to := lab.Node(0), lab.Node(1)
	l := must.Get(to.Listen("tcp", to.Addr(80)))(t)
	defer l.Close()
	to.NFT("table inet t { chain c { type filter hook input priority 0; tcp dport 80 reject with tcp reset; }; }")
	if c, err := from.Dial("tcp", to.Addr(80)); err == nil {
		c.Close()
		t.Error("nothing was rejected")
	}
	to.NFT("")
	if c, err := from.Dial("tcp", to.Addr(80)); err != nil {
		t.Errorf("after the rules: %v", err)
	} else {
		c.Close()
	}
	if err := to.TryNFT("nonsense"); err == nil || !strings.Contains(err.Error(), "syntax error") {
		t.Errorf("nonsense: %v", err)
	}
}

func TestLoopback(t *testing.T) {
	node := netlab.New(t, 1).Node(0)
	for _, addr := range []string{"127.0.0.1:18000", "[::1]:18000", node.Addr(1), node.Addr6(1)} {
		l := must.Get(node.Listen("tcp", addr))(t)
		defer l.Close()
		if c, err := node.Dial("tcp", addr); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
	}
}

func TestProcessIsWhereItShouldBe(t *testing.T) {
	lab := netlab.New(t, 2)
	node := lab.Node(1)
	var ns string
	must.Do(t, node.Do(func() (err error) {
		ns, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	outside := must.Get(os.Readlink("/proc/self/ns/net"))(t)
	if ns == outside {
		t.Fatal("the node has no namespace of its own")
	}
	for _, user := range []uint32{0, 65532} {
		p := node.Start(netlab.Command{Cgroup: node.GatewayCgroup, Helper: "where", User: user})
		if err := p.Wait(); err != nil {
			t.Fatalf("%v: %s", err, p.Output())
		}
		for _, want := range []string{
			"/pod" + node.UID + "/gateway\n", "net " + ns + "\n", fmt.Sprintf("user %d %d\n", user, user), node.IP4.String() + "/24", node.IP6.String() + "/64",
		} {
			if !strings.Contains(p.Output(), want) {
				t.Errorf("as user %d: no %q in %s", user, want, p.Output())
			}
		}
	}
	if now, _ := os.Readlink("/proc/self/ns/net"); now != outside {
		t.Error("this process has changed its namespace")
	}
}

func TestProcessesEnd(t *testing.T) {
	lab := netlab.New(t, 1)
	node := lab.Node(0)
	p := node.Start(netlab.Command{Cgroup: node.AppCgroup, Helper: "wait"})
	failing := node.Start(netlab.Command{Cgroup: node.AppCgroup, Helper: "fail"})
	var exit *exec.ExitError
	if err := failing.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit: %v, want code 7", err)
	}
	if _, err := node.TryStart(netlab.Command{Path: "/bin/true"}); err == nil {
		t.Error("a process without a cgroup was started")
	}
	root := filepath.Dir(node.PodCgroup)
	must.Do(t, lab.Close())
	if err := p.Wait(); err == nil {
		t.Error("the process has ended well, and not been killed")
	}
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cgroup %s is still there: %v", root, err)
	}
}

// What a killed run leaves behind, the next one removes; what belongs to a living
// one stays.
func TestStaleLeftovers(t *testing.T) {
	lab := netlab.New(t, 1)
	node := lab.Node(0)
	stdin, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	p := node.Start(netlab.Command{Cgroup: node.OtherCgroup, Helper: "owner", Stdin: stdin})
	stdin.Close()
	var root string
	var pid int
	for deadline := time.Now().Add(10 * time.Second); pid == 0; time.Sleep(time.Millisecond) {
		fmt.Sscanf(p.Output(), "made %s %d\n", &root, &pid)
		if time.Now().After(deadline) {
			t.Fatalf("no network was made: %s", p.Output())
		}
	}
	if _, err := os.Stat(root); err != nil {
		t.Fatal(err)
	}

	netlab.New(t, 1)
	if _, err := os.Stat(root); err != nil {
		t.Fatalf("a living run's network was removed: %v", err)
	}
	p.Stop()
	if err := unix.Kill(pid, 0); err != nil {
		t.Fatalf("the process in it has not outlived its owner: %v", err)
	}
	netlab.New(t, 1)
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", root, err)
	}
	if copies, _ := filepath.Glob(filepath.Join(os.TempDir(), fmt.Sprintf("kubectl-gateway-test-%d-*", p.Pid))); len(copies) > 0 {
		t.Errorf("%v is still there", copies)
	}
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("process %d is still there: %s", pid, stat)
	}
}
