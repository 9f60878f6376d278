//go:build linux

package supervisor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// populate writes what the kernel says of a container's cgroup.
func populate(t *testing.T, pod, name string, populated bool) string {
	t.Helper()
	dir := filepath.Join(pod, name)
	must.Do(t, os.MkdirAll(dir, 0o755))
	text := "populated 0\nfrozen 0\n"
	if populated {
		text = "populated 1\nfrozen 0\n"
	}
	must.Do(t, os.WriteFile(filepath.Join(dir, "cgroup.events"), []byte(text), 0o644))
	return dir
}

// TestGatewayOutlivesTheApplication: the application has ended when no container but the gateway
// and the sandbox has a process, in the layouts of all runtimes.
func TestGatewayOutlivesTheApplication(t *testing.T) {
	id := func(digit string) string { return strings.Repeat(digit, 64) }
	for _, c := range []struct {
		name, sandbox, gateway, app string
		// others are cgroups with a process that are neither the gateway's nor the application's.
		others []string
	}{
		{"containerd, cgroupfs", id("5"), id("a"), id("b"), []string{id("5")}},
		{"containerd, systemd", id("5"), "cri-containerd-" + id("a") + ".scope", "cri-containerd-" + id("b") + ".scope", []string{"cri-containerd-" + id("5") + ".scope"}},
		{"CRI-O, systemd", id("5"), "crio-" + id("a") + ".scope", "crio-" + id("b") + ".scope", nil},
		{"CRI-O, shared PID namespace", id("5"), "crio-" + id("a") + ".scope", "crio-" + id("b") + ".scope", []string{"crio-" + id("5") + ".scope"}},
		{"CRI-O, cgroupfs, monitors in the pod", id("5"), "crio-" + id("a"), "crio-" + id("b"), []string{"crio-conmon-" + id("a"), "crio-conmon-" + id("b")}},
		{"CRI-O, systemd, monitors in the pod", id("5"), "crio-" + id("a") + ".scope", "crio-" + id("b") + ".scope", []string{
			"crio-conmon-" + id("a") + ".scope", "crio-" + id("5") + ".scope", "crio-conmon-" + id("5") + ".scope"}},
		{"unknown runtime", "", "gateway", "app", []string{"sandbox"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := t.TempDir()
			s := siblings{pod: pod, own: populate(t, pod, c.gateway, true), sandbox: c.sandbox}
			for _, other := range c.others {
				populate(t, pod, other, true)
			}
			populate(t, pod, id("c"), false) // an init container
			populate(t, pod, c.app, true)
			if !s.applicationRuns() {
				t.Error("a running application is not noticed")
			}
			populate(t, pod, c.app, false)
			if s.applicationRuns() {
				t.Error("the sandbox, a monitor or the gateway itself is taken for the application")
			}
		})
	}
}

func TestWaitForApplicationEnds(t *testing.T) {
	pod := t.TempDir()
	own := populate(t, pod, "gateway", true)
	waitForApplication(t.Context(), pod, own, nil) // returns at once: nothing runs
	populate(t, pod, "one", true)
	populate(t, pod, "two", true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	waitForApplication(ctx, pod, own, nil) // returns all the same, as ctx is done
}

func TestSandboxID(t *testing.T) {
	const id, volume = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		"fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	for name, c := range map[string]struct{ mounts, want string }{
		"containerd": {"700 690 8:1 /var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/" + id + "/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n", id},
		"CRI-O":      {"700 690 0:25 /containers/storage/overlay-containers/" + id + "/userdata/resolv.conf /etc/resolv.conf rw - tmpfs tmpfs rw\n", id},
		"Docker":     {"700 690 8:1 /var/lib/docker/containers/" + id + "/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n", id},
		"a node in a container": {"700 690 8:1 /var/lib/docker/volumes/" + volume + "/_data/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/" + id +
			"/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n", id},
		"another mount":   {"700 690 8:1 /volumes/" + volume + "/x /data rw - ext4 /dev/sda1 rw\n", ""},
		"without an ID":   {"700 690 8:1 /etc/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n", ""},
		"unreadable":      {"x\n", ""},
		"no mount at all": {"", ""},
	} {
		if got := sandboxID(strings.NewReader(c.mounts)); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
