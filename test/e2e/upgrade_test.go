//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// plainTraffic is what every longer message of the test application's traffic has in it.
const plainTraffic = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// gatewayRepository is that of the gateway's image.
const gatewayRepository = "ghcr.io/kubectl-gateway/kube-gateway"

// buildProgram builds a program of the sources in dir as a version, in dir's own way.
func buildProgram(t *testing.T, dir, program, version, into string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags",
		"-s -w -X github.com/kubectl-gateway/kubectl-gateway/internal/version.stamp="+version, "-o", into, "./cmd/"+program)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s %s of %s: %v\n%s", program, version, dir, err, out)
	}
}

// topDir is the top of the tree.
func topDir(t *testing.T) string {
	t.Helper()
	dir := must.Get(filepath.Abs("../.."))(t)
	return dir
}

// gatewayImage builds the gateway of the sources in dir as a version, loads it into the nodes, and
// returns the image.
func gatewayImage(t *testing.T, dir, version string) string {
	t.Helper()
	work := t.TempDir()
	program, archive, image := filepath.Join(work, "kube-gateway"), filepath.Join(work, "image.tar"), gatewayRepository+":"+version
	buildProgram(t, dir, "kube-gateway", version, program)
	pack := exec.CommandContext(t.Context(), "go", "run", ".", "--name", image, "--arg", "supervise", "--version", version, "--output", archive, runtime.GOARCH+"="+program)
	pack.Dir = filepath.Join(topDir(t), "build/image")
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("packing %s: %v\n%s", image, err, out)
	}
	cluster(t.Context(), t, "load", archive)
	return image
}

// pluginOf builds the plugin as a version, and returns a PATH where kubectl finds it first.
func pluginOf(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	buildProgram(t, topDir(t), "kubectl-gateway", version, filepath.Join(dir, "kubectl-gateway"))
	return dir + ":" + os.Getenv("PATH")
}

// lastSources returns the sources of the last commit before this one that changed the gateway, if the
// history is there and its gateway can hand over.
func lastSources(t *testing.T) (dir string, ok bool) {
	t.Helper()
	top := topDir(t)
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", top}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	commits, err := git("log", "-2", "--format=%H", "--", "cmd/kube-gateway", "internal/gateway", "internal/api", "bpf")
	list := strings.Fields(commits)
	if err != nil || len(list) < 2 {
		return "", false
	}
	if text, err := git("show", list[1]+":cmd/kube-gateway/ctl.go"); err != nil || !strings.Contains(text, "hand-over") {
		return "", false
	}
	dir = t.TempDir()
	out := runCommand(t.Context(), t, "", "bash", "-c", `git -C "$1" archive "$2" | tar -x -C "$3"`, "-", top, list[1], dir)
	if out.code != 0 {
		t.Fatalf("reading the sources of %s: %s", list[1], out.stderr)
	}
	return dir, true
}

// upgrade upgrades the gateways of pods, and returns what the plugin says.
func upgrade(t *testing.T, flags []string, pods ...*pod) output {
	t.Helper()
	args := append([]string{"-n", pods[0].namespace, "upgrade"}, flags...)
	for _, p := range pods {
		args = append(args, p.String())
	}
	return gateway(t, args...)
}

// TestUpgrade takes gateways from one version to the other and back, in both modes and on both
// wires, under traffic that does not notice and that is never in plaintext.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	versions := map[string]string{"v0.9.0": gatewayImage(t, topDir(t), "v0.9.0"), "v0.9.1": gatewayImage(t, topDir(t), "v0.9.1")}
	order := []string{"v0.9.0", "v0.9.1", "v0.9.0"}
	if dir, ok := lastSources(t); ok {
		versions["v0.8.9"] = gatewayImage(t, dir, "v0.8.9")
		order = append(order, "v0.8.9", "v0.9.1")
	}
	for _, mode := range []api.Mode{api.Strict, api.Permissive} {
		for _, way := range []api.Wire{api.WirePort, api.WireInband} {
			t.Run(fmt.Sprintf("%s %s", mode, way), func(t *testing.T) {
				t.Parallel()
				ns := namespace(t)
				a, b := twoPods(t, ns)
				targets := []string{b.addr(portTraffic)}
				back := []string{a.addr(portTraffic)}
				if way == api.WireInband {
					targets, back = append(targets, b.clusterIP()), append(back, a.clusterIP())
				}
				enable(t, []string{"--image=" + versions[order[0]], "--mode=permissive", "--wire=" + string(way), "--exclude-port=4711", "--delivery=csr"}, a, b)
				// What was changed since is kept.
				for _, p := range []*pod{a, b} {
					gateway(t, "-n", ns, "mode", p.String(), string(mode))
					gateway(t, "-n", ns, "allow", p.String(), "ns/"+ns+"/sa/*")
				}
				before := a.status()
				wire := record(t, a, b)
				out, in := startLoadWith(a, []string{shortLife}, targets...), startLoadWith(b, []string{shortLife}, back...)
				totals := a.status().Traffic
				for i, version := range order[1:] {
					said := upgrade(t, []string{"--image=" + versions[version], "-o", "json"}, a, b)
					if !strings.Contains(said.stdout, `"version": "`+version+`"`) {
						t.Errorf("upgrade to %s: %s%s", version, said.stdout, said.stderr)
					}
					for _, p := range []*pod{a, b} {
						s := p.status()
						if s.Version != version || s.State != api.Ready {
							t.Errorf("%s is %s, %s, and not %s", p, s.Version, s.State, version)
						}
					}
					out.more(10)
					in.more(10)
					awaitOneGateway(t, a, i+2)
					awaitOneGateway(t, b, i+2)
				}
				// There is nothing more to do.
				if said := upgrade(t, []string{"--image=" + versions[order[len(order)-1]]}, a, b); !strings.Contains(said.stdout, "already") {
					t.Errorf("once more: %s%s", said.stdout, said.stderr)
				}
				after := a.status()
				if after.Mode != mode || !after.Rules.Equal(before.Rules) || after.Wire != before.Wire || after.OnFailure != before.OnFailure ||
					after.Capture.Named.Fingerprint() != before.Capture.Named.Fingerprint() {
					t.Errorf("settings were %+v and are %+v", before, after)
				}
				if after.Traffic.Outbound.Encrypted < totals.Outbound.Encrypted {
					t.Errorf("counters began again: %+v, %+v before", after.Traffic, totals)
				}
				out.stopClean(b)
				in.stopClean(a)
				wire.stop()
				if wire.contains(plainTraffic) {
					t.Error("traffic is readable on the wire")
				}
				if way == api.WirePort {
					for _, p := range []*pod{a, b} {
						if n := wire.count("tcp and tcp[tcpflags] & tcp-syn != 0 and not port 18443 and host " + p.ips[0].String()); n != 0 {
							t.Errorf("%d connection attempts went past the gateways", n)
						}
					}
				}
				for _, p := range []*pod{a, b} {
					if s := p.status().Traffic; s.Inbound.Plaintext+s.Outbound.Plaintext != 0 {
						t.Errorf("%s carried plaintext: %+v", p, s)
					}
				}
				noSecrets(t, ns)
				objects := gatewayObjects(t, a)
				disable(t, nil, a, b)
				objects.checkGone(t, a)
			})
		}
	}
}

// awaitOneGateway waits until one of the gateways of p runs, of listed in its spec.
func awaitOneGateway(t *testing.T, p *pod, listed int) {
	t.Helper()
	eventually(t, "one gateway runs in "+p.String(), func() error {
		object := get[corev1.Pod](t, "-n", p.namespace, "pod", p.name)
		if all, running := gateways(&object); all != listed || running != 1 {
			return fmt.Errorf("%d gateways, of which %d run; want %d", all, running, listed)
		}
		return nil
	})
}

// TestUpgradeDrains: connections that do not end go on until the drain timeout, and are reset then.
func TestUpgradeDrains(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, nil, a, b)
	l := startLoad(a, b.addr(portTraffic))
	objects := gatewayObjects(t, a)
	const drain = 10 * time.Second
	upgraded := time.Now()
	upgrade(t, []string{"--force", "--drain-timeout=" + drain.String()}, a)
	// Both run: whoever asks is answered by the new one, and the old one carries what was open.
	if s := a.status(); s.State != api.Ready {
		t.Errorf("while the old gateway drains, the pod's is %s", s.State)
	}
	l.more(5)
	if s := l.show(); s.Failures != 0 && time.Since(upgraded) < drain {
		t.Errorf("failed before the drain timeout:\n%s", s.failures())
	}
	awaitOneGateway(t, a, 2)
	eventually(t, "nothing of the old gateway is in the kernel", func() error {
		if left := objects.left(); len(left) != 0 {
			return fmt.Errorf("it still has %v", left)
		}
		return nil
	})
	l.more(5)
	s := l.stop()
	s.checkIntact(t)
	b.checkServedIntact()
	if s.Failures != heldConnections {
		t.Errorf("%d connections failed, %d were held:\n%s", s.Failures, heldConnections, s.failures())
	}
	for _, f := range s.Failed {
		if f.Kind != "held" || !f.Reset || f.Time.Before(upgraded.Add(drain)) {
			t.Errorf("failed: %v", f)
		}
	}
}

// TestUpgradeFails: a new gateway that does not come changes nothing for the one that serves, and
// disable ends both of two.
func TestUpgradeFails(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--mode=strict"}, a, b)
	l := startLoadWith(a, []string{shortLife}, b.addr(portTraffic))
	out := tryGateway(t, "-n", ns, "upgrade", a.String(), "--image=localhost/no-such-image:v1", "--image-pull-policy=Never")
	if out.code != 1 || !strings.Contains(out.stderr, "cannot start") || !strings.Contains(out.stderr, "kube-gateway serves as before") {
		t.Errorf("exit %d: %s%s", out.code, out.stdout, out.stderr)
	}
	if status := gateway(t, "-n", ns, "status", a.String()); !strings.Contains(status.stdout+status.stderr, "an upgrade has failed") {
		t.Errorf("status does not tell: %s%s", status.stdout, status.stderr)
	}
	l.more(10)
	// One that is interrupted is continued.
	interrupted := start(t, "kubectl", "gateway", "-n", ns, "upgrade", a.String(), "--force")
	time.AfterFunc(300*time.Millisecond, func() { interrupted.cmd.Process.Signal(os.Interrupt) })
	_ = interrupted.wait() // it may have been faster
	l.more(5)
	upgrade(t, []string{"--force"}, a)
	l.more(5)
	l.stopClean(b)
	disable(t, nil, a, b)
	object := get[corev1.Pod](t, "-n", ns, "pod", a.name)
	if _, running := gateways(&object); running != 0 {
		t.Errorf("%d gateways run after disable", running)
	}
}

// TestEnableReplace changes what cannot be changed in place.
func TestEnableReplace(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--wire=port", "--mode=strict", "--on-failure=closed"}, a, b)
	l := startLoadWith(a, []string{shortLife}, b.addr(portTraffic))
	enable(t, []string{"--replace", "--wire=inband", "--metrics-addr=127.0.0.1:18445", "--on-failure=open"}, a, b)
	for _, p := range []*pod{a, b} {
		if s := p.status(); s.Wire != api.WireInband || s.OnFailure != api.FailOpen || s.Mode != api.Strict || s.MetricsAddr != "127.0.0.1:18445" {
			t.Errorf("%s: %+v", p, s)
		}
	}
	if said := enable(t, []string{"--replace", "--wire=inband"}, a); !strings.Contains(said.stdout, "already has these settings") {
		t.Errorf("once more: %s%s", said.stdout, said.stderr)
	}
	l.more(10)
	l.stopClean(b)
}

// TestWatchUpgrades rolls out a newer version, one pod of a workload at a time, and stops where that
// fails.
func TestWatchUpgrades(t *testing.T) {
	t.Parallel()
	const old, next, broken = "v0.7.0", "v0.7.1", "v0.7.2"
	image, newer := gatewayImage(t, topDir(t), old), gatewayImage(t, topDir(t), next)
	ns := namespace(t)
	kubectl(t, "annotate", "namespace", ns, annotation+"=true")
	deployment(t, ns, "server", 3, node2)
	client := startPods(t, ns, podSpec("client", node1))[0]
	servers := podsOf(t, ns, "app=server")
	gateway(t, "-n", ns, "enable", "--all", "--yes", "--image="+image, "--mode=strict", "--delivery=csr")
	targets := []string{serviceOf(t, ns, "server")}
	for _, p := range servers {
		targets = append(targets, p.addr(portTraffic))
	}
	l := startLoadWith(client, []string{shortLife}, targets...)
	all := append(slices.Clone(servers), client)
	awaitVersion := func(version string) {
		t.Helper()
		eventually(t, "all gateways are "+version, func() error {
			for _, p := range all {
				if s := p.status(); s.Version != version || s.State != api.Ready {
					return fmt.Errorf("%s is %s, %s", p, s.Version, s.State)
				}
			}
			return nil
		})
	}
	newerPlugin := pluginOf(t, next)
	// One of the same version leaves them alone; --upgrade=false does of any.
	runWatch(t, newerPlugin, ns, "--upgrade=false", "--image="+newer, "--once")
	awaitVersion(old)
	said := runWatch(t, newerPlugin, ns, "--image="+newer, "--once")
	awaitVersion(next)
	if n := strings.Count(said.stdout, " upgraded "); n != len(all) {
		t.Errorf("%d of %d were upgraded:\n%s%s", n, len(all), said.stdout, said.stderr)
	}
	// An older watch takes none back.
	runWatch(t, pluginOf(t, old), ns, "--image="+image, "--once")
	awaitVersion(next)
	l.more(10)
	for _, p := range all {
		awaitOneGateway(t, p, 2)
	}
	// One that cannot start is tried with one pod of each workload at most, and no more.
	halted := runWatch(t, pluginOf(t, broken), ns, "--image=localhost/no-such-image:"+broken, "--image-pull-policy=Never", "--once", "--parallel=1")
	if !strings.Contains(halted.stdout, "no gateway is upgraded any more") || halted.code != 1 {
		t.Errorf("exit %d: %s%s", halted.code, halted.stdout, halted.stderr)
	}
	awaitVersion(next)
	tried := 0
	for _, p := range all {
		object := get[corev1.Pod](t, "-n", ns, "pod", p.name)
		if listed, _ := gateways(&object); listed == 3 {
			tried++
		}
	}
	if tried != 1 {
		t.Errorf("a broken image was tried with %d pods", tried)
	}
	l.more(5)
	l.stopClean(servers...)
}

// runWatch runs watch of the plugin that is found in path to its end.
func runWatch(t *testing.T, path, ns string, args ...string) output {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"gateway", "watch", "-n", ns}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+path)
	return outputOf(t, cmd)
}
