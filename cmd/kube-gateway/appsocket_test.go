//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// callers makes connections to a server that says who connects, args[1] of them, some at once, and prints which of them it took for
// another one.
func callers(args []string) int {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		fmt.Println(err)
		return 2
	}
	jobs := make(chan struct{}, n)
	for range cap(jobs) {
		jobs <- struct{}{}
	}
	close(jobs)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range jobs {
				if err := askWhoCalls(args[0]); err != nil {
					fmt.Println(err)
				}
			}
		})
	}
	all.Wait()
	fmt.Println("all have called")
	return 0
}

func askWhoCalls(address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	greeting, err := reader.ReadString('\n')
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("hello %s from %s\n", conn.LocalAddr(), address); greeting != want {
		return fmt.Errorf("the server said %q, want %q", greeting, want)
	}
	if _, err := io.WriteString(conn, "thanks\n"); err != nil {
		return err
	}
	rest, err := io.ReadAll(reader)
	if err == nil && string(rest) != "you said thanks\n" {
		err = fmt.Errorf("the server said %q at the end", rest)
	}
	return err
}

// unconnected returns the sockets of a process that are none of TCP's with an address, by inode.
func unconnected(t *testing.T, pid int) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	for _, file := range must.Get(filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)))(t) {
		to, _ := os.Readlink(file) // it may be closed
		if inode := regexp.MustCompile(`^socket:\[(\d+)]$`).FindStringSubmatch(to); inode != nil {
			all[inode[1]] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		for line := range strings.Lines(string(must.Get(os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table)))(t))) {
			if fields := strings.Fields(line); len(fields) > 9 {
				delete(all, fields[9])
			}
		}
	}
	return all
}

// TestSocketsAreUsedAgain: many short connections come to an application over few sockets, and each shows its own client. Nothing of
// them is left, nor of the sockets.
func TestSocketsAreUsedAgain(t *testing.T) {
	const each = 150
	l := newLabOf(t, 3)
	clients := []*netlab.Node{l.a, l.net.Node(2)}
	for _, n := range clients {
		l.gateway(l.spec(n))
	}
	g := l.gateway(l.spec(l.b))
	worker := status(t, g).Worker.PID
	idle := unconnected(t, worker)
	kept := func() (n int) {
		for inode := range unconnected(t, worker) {
			if !idle[inode] {
				n++
			}
		}
		return n
	}
	calls := 0
	eventually(t, "the gateway to keep sockets", func() error {
		var all []*netlab.Process
		for _, n := range clients {
			for _, address := range []string{l.b.Addr(portServerFirst), l.b.Addr6(portServerFirst)} {
				all = append(all, n.Start(netlab.Command{Cgroup: n.AppCgroup, Helper: "callers", Args: []string{address, strconv.Itoa(each)}}))
				calls += each
			}
		}
		for _, p := range all {
			if err := p.Wait(); err != nil || p.Output() != "all have called\n" {
				t.Fatalf("callers: %v, %s", err, p.Output())
			}
		}
		// The sweeper may have been there just now.
		if kept() == 0 {
			return fmt.Errorf("there is none after %d connections", calls)
		}
		return nil
	})
	eventually(t, "the gateway to rest", func() error {
		if n, left := kept(), entries(t, g.Pid)["kgw_handover"]; n > 0 || left > 0 {
			return fmt.Errorf("%d sockets are kept, and there are %d entries in the handover map", n, left)
		}
		return nil
	})
	if n := status(t, g).Traffic.Inbound; n.Encrypted != uint64(calls) || n.Refused > 0 || n.Plaintext > 0 {
		t.Errorf("%d calls are counted as %+v", calls, n)
	}
}
