//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// spy opens what it may of each process that starts, and says which of them holds a private key,
// until it is killed. Its user is that of the worker: nobody else's attempts get further.
func spy([]string) int {
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
	reader := l.a.Start(netlab.Command{Cgroup: l.a.AppCgroup, Helper: "spy", User: api.WorkerID})
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

// TestEnvironmentOfACommand: a command that is executed in the gateway's container has the container's
// environment, and shows no key of it.
func TestEnvironmentOfACommand(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	env := must.Get(spec.Environment())(t)
	container := must.Get(gatewaylab.NewContainer(filepath.Join(spec.Dir, "x"), ""))(t)
	// There is no gateway: it waits.
	command := l.a.Start(container.In(netlab.Command{
		Cgroup: l.a.GatewayCgroup, Path: l.self, Args: []string{"ctl", "status", "--wait", "10m"}, Env: env,
	}))
	eventually(t, "its environment is empty", func() error {
		cmdline := must.Get(os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", command.Pid)))(t)
		environ := must.Get(os.ReadFile(fmt.Sprintf("/proc/%d/environ", command.Pid)))(t)
		if !bytes.Contains(cmdline, []byte("status")) || len(bytes.Trim(environ, "\x00")) > 0 {
			return fmt.Errorf("%q has the environment %q", cmdline, environ)
		}
		return nil
	})
	select {
	case <-command.Done():
		t.Error("it has ended:", command.Output())
	default:
	}
	command.Stop()
}

// TestProgramThatCannotBeRead: with the mode that it has in the image, processes of the same user cannot look
// into one that starts, before it does anything itself. A gateway works with it.
func TestProgramThatCannotBeRead(t *testing.T) {
	l := newLab(t)
	program := filepath.Join(t.TempDir(), "kube-gateway")
	must.Do(t, os.Chmod(filepath.Dir(program), 0o755))
	must.Do(t, os.Chmod(filepath.Dir(filepath.Dir(program)), 0o755))
	must.Do(t, os.WriteFile(program, must.Get(os.ReadFile(l.self))(t), 0o711))
	waiting := l.a.Start(netlab.Command{
		Cgroup: l.a.AppCgroup, Path: program, Args: []string{"ctl", "status", "--wait", "10m"}, User: api.WorkerID,
	})
	eventually(t, "its memory belongs to root", func() error {
		cmdline := must.Get(os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", waiting.Pid)))(t)
		info := must.Get(os.Stat(fmt.Sprintf("/proc/%d/mem", waiting.Pid)))(t)
		if uid := info.Sys().(*syscall.Stat_t).Uid; !bytes.Contains(cmdline, []byte("status")) || uid != 0 {
			return fmt.Errorf("the memory of %q belongs to user %d", cmdline, uid)
		}
		return nil
	})
	waiting.Stop()
	spec := l.spec(l.a)
	spec.Program = program
	l.gateway(exporting(spec))
	l.gateway(l.spec(l.b))
	l.talk(l.a, l.b.Addr(portEcho))
	l.scrape(l.b, l.b.OtherCgroup, l.a.Addr(api.MetricsPort), "kube_gateway_info")
}
