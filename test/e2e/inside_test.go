//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// inside is the inside of a pod that runs: its own processes, namespaces and cgroup, without the
// detour by the API server.
type inside struct {
	*pod
	// pid is a process of the pod, cgroup its container's.
	pid    int
	cgroup *os.File
}

// enter returns the inside of p, for a test that may be another one than p's.
func (p *pod) enter(t *testing.T) *inside {
	t.Helper()
	i := &inside{pod: p.of(t), pid: processesOf(t, p, "serve")[0]}
	text := must.Get(os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", i.pid)))(t)
	_, path, ok := strings.Cut("\n"+string(text), "\n0::")
	if !ok {
		t.Fatalf("process %d is in no cgroup of version 2: %s", i.pid, text)
	}
	path, _, _ = strings.Cut(path, "\n")
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if dir, err := os.Open(filepath.Join(root, path)); err == nil {
			i.cgroup = dir
			t.Cleanup(func() { dir.Close() })
			return i
		}
	}
	t.Fatalf("the cgroup of process %d, %s, is not found", i.pid, path)
	return nil
}

// of returns p for another test.
func (p *pod) of(t *testing.T) *pod {
	q := *p
	q.t = t
	return &q
}

// app runs a client of the test application as a process of the pod.
func (i *inside) app(args ...string) appResult {
	i.t.Helper()
	return i.appIn(i.pid, args...)
}

// appIn does the same in the network namespace of a process.
func (i *inside) appIn(pid int, args ...string) appResult {
	i.t.Helper()
	out := outputOf(i.t, i.command(pid, args...))
	if out.code != 0 {
		i.t.Fatalf("%v in %s: exit %d: %s", args, i, out.code, out.stderr)
	}
	return parse[appResult](i.t, out.stdout)
}

// command is the test application as a process of the pod, in the network namespace of a process.
func (i *inside) command(pid int, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(i.t.Context(), "nsenter", append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", i.pid), fmt.Sprintf("--net=/proc/%d/ns/net", pid), "/app"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(i.cgroup.Fd())}
	return cmd
}

// native is a program of this machine as a process of the pod: in its network and its control group, with the
// machine's files.
func (i *inside) native(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(i.t.Context(), "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", i.pid)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(i.cgroup.Fd())}
	return cmd
}

// program is where this machine has the test application.
func (i *inside) program() string { return fmt.Sprintf("/proc/%d/root/app", i.pid) }

// stranger runs a client of the test application that is no process of the pod, in the network
// namespace of a process. Two seconds are two SYNs.
func (i *inside) stranger(pid int, args ...string) appResult {
	i.t.Helper()
	return parse[appResult](i.t, i.enterNetwork(pid, append([]string{"env", "DIAL_TIMEOUT=2s", i.program()}, args...)...))
}

// enterNetwork runs a command, which must succeed, in the network namespace of a process.
func (i *inside) enterNetwork(pid int, args ...string) string {
	i.t.Helper()
	out := runCommand(i.t.Context(), i.t, "", "nsenter", append([]string{"-t", strconv.Itoa(pid), "-n"}, args...)...)
	if out.code != 0 {
		i.t.Fatalf("%v in the network of process %d: %s%s", args, pid, out.stdout, out.stderr)
	}
	return out.stdout
}

// ip runs ip(8) in the pod's network namespace.
func (i *inside) ip(args ...string) string {
	i.t.Helper()
	return i.enterNetwork(i.pid, append([]string{"ip"}, args...)...)
}

// nest makes a network namespace that ends with the test, and returns a process in it.
func nest(t *testing.T) int {
	t.Helper()
	holder := start(t, "unshare", "--net", "sleep", "infinity")
	pid := holder.cmd.Process.Pid
	own := must.Get(os.Readlink("/proc/self/ns/net"))(t)
	await(t, "the network namespace is there", func() bool {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		return err == nil && ns != own
	})
	return pid
}

// listen has the test application listen, by the command that runs it.
func listen(t *testing.T, command ...string) {
	t.Helper()
	start(t, command[0], command[1:]...).says("listening")
}

// conversation is a connection of a pod that stays open.
type conversation struct {
	cmd *exec.Cmd
	in  interface{ Write([]byte) (int, error) }
	out lockedBuffer
}

// converse connects from inside the pod.
func (i *inside) converse(address string) *conversation {
	i.t.Helper()
	c := &conversation{cmd: i.command(i.pid, "converse", address)}
	c.in = must.Get(c.cmd.StdinPipe())(i.t)
	c.cmd.Stdout = &c.out
	must.Do(i.t, c.cmd.Start())
	i.t.Cleanup(func() { c.cmd.Process.Kill(); c.cmd.Wait() })
	await(i.t, "the connection is open", func() bool { return strings.Contains(c.out.String(), "connected") })
	return c
}

// say sends a line and reports whether it came back.
func (c *conversation) say(line string) bool {
	if _, err := c.in.Write([]byte(line + "\n")); err != nil {
		return false
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(c.out.String(), line) {
			return true
		}
		if strings.Contains(c.out.String(), `"error"`) {
			return false
		}
	}
	return false
}
