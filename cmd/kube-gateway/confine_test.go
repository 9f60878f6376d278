//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// spy opens what it may of each process that starts, and says which of them holds a private key,
// until it is killed. Its user is that of the worker: nobody else's attempts get further.
func spy() int {
	fmt.Println("spying")
	for {
		text, err := os.ReadFile("/proc/loadavg")
		if err != nil {
			return 1
		}
		// The last field is the process number that was given last.
		newest, err := strconv.Atoi(string(bytes.TrimSpace(text[bytes.LastIndexByte(text, ' '):])))
		if err != nil {
			return 1
		}
		for pid := newest - 2; pid <= newest+1; pid++ {
			for fd := 3; fd < 6; fd++ {
				f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), os.O_RDONLY|syscall.O_NONBLOCK, 0)
				if err != nil {
					continue
				}
				head := make([]byte, 16<<10)
				n, _ := f.ReadAt(head, 0)
				f.Close()
				if bytes.Contains(head[:n], []byte(`"key":"`)) {
					fmt.Println("a key in file", fd, "of process", pid)
				}
			}
		}
	}
}

// TestKeyReader: a process of the worker's user that shares the PID namespace reads no key, not even
// between the start of a worker and the moment that its memory is protected.
func TestKeyReader(t *testing.T) {
	l := newLab(t)
	reader := l.a.Start(netlab.Command{Cgroup: l.a.AppCgroup, Path: l.self, Args: []string{"spy"}, User: api.WorkerID})
	says(t, reader, "spying")
	g := l.gateway(l.spec(l.a))
	for restarts := 1; restarts <= 5; restarts++ {
		must.Do(t, syscall.Kill(status(t, g).Worker.PID, syscall.SIGKILL))
		awaitStatus(t, g, "there is the next worker", func(s *api.Status) bool {
			return s.State == api.Ready && s.Worker.Restarts == restarts
		})
	}
	if out := reader.Output(); strings.Contains(out, "key") {
		t.Error(out)
	}
	select {
	case <-reader.Done():
		t.Error("the reader has ended:", reader.Output())
	default:
	}
}
