//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rig is a cluster of the tests: another than the one that a developer may have
// up, with its own state directory, driven through the command as users do.
type rig struct {
	*testing.T
	cluster *Cluster
	command string
	dir     string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("a whole cluster takes its time")
	}
	requireRootForTest(t)
	dir := t.TempDir()
	r := &rig{T: t, dir: dir, command: buildProgram(t, dir, ".", "cluster")}
	var err error
	if r.cluster, err = openCluster(filepath.Join(dir, "state")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whatever the test left, even when it failed half-way.
		if output, err := r.cmd(context.Background(), "down").CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, output)
		}
	})
	return r
}

// buildProgram builds a static program of this module.
func buildProgram(t *testing.T, dir, source, name string) string {
	t.Helper()
	program := filepath.Join(dir, name)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", source, err, output)
	}
	return program
}

func (r *rig) cmd(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.command, args...)
	cmd.Env = append(os.Environ(), dirVariable+"="+r.cluster.Dir)
	return cmd
}

// do runs a verb that must succeed and returns what it wrote to both streams.
func (r *rig) do(args ...string) string {
	r.Helper()
	output, err := r.cmd(r.Context(), args...).CombinedOutput()
	if err != nil {
		r.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// kubectl returns the standard output of kubectl, which must succeed.
func (r *rig) kubectl(args ...string) string {
	r.Helper()
	cmd := r.cmd(r.Context(), append([]string{"kubectl"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		r.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, output, stderr.String())
	}
	return strings.TrimSpace(string(output))
}

// await waits for a condition, at most a minute.
func (r *rig) await(what string, condition func() error) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	if err := await(ctx, condition); err != nil {
		r.Fatalf("waiting for %s: %v", what, err)
	}
}

func (r *rig) pid(unit string) int {
	r.Helper()
	pid, ok := r.cluster.unitPID(unit)
	if !ok {
		r.Fatalf("%s is not running", unit)
	}
	return pid
}

func (r *rig) kill(pid int) {
	r.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.Fatalf("killing process %d: %v", pid, err)
	}
}

// cgroup is the cluster's control group.
func (r *rig) cgroup() string {
	r.Helper()
	dir, err := r.cluster.cgroup()
	if err != nil {
		r.Fatal(err)
	}
	return dir
}

// TestCluster is one cluster's life: up, what a cluster must be able to do, the
// violent death of its parts, and down, after which nothing is left.
func TestCluster(t *testing.T) {
	r := newRig(t)
	before := takeInventory(t)

	r.do("up")
	supervisor := r.pid(roleSupervisor)
	if output := r.do("up"); !strings.Contains(output, "up already") || r.pid(roleSupervisor) != supervisor {
		t.Errorf("the second up did something: %s", output)
	}
	if output, err := r.cmd(t.Context(), "up", "--nodes", "1").CombinedOutput(); err == nil || !strings.Contains(string(output), "is up with 2 nodes, not 1\nhint: ") {
		t.Errorf("up with another number of nodes: %v, %s", err, output)
	}
	r.do("status")

	archive := filepath.Join(r.dir, "probe.tar")
	r.do("image", "--name", "localhost/probe:1", "--binary", buildProgram(t, r.dir, "./testdata/probe", "probe"), "-o", archive)
	r.do("load", archive)
	r.kubectl("apply", "-f", "testdata/pods.yaml")
	r.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")

	t.Run("network", r.sub((*rig).testNetwork))
	t.Run("logs and exec", r.sub((*rig).testLogsAndExec))
	t.Run("privileged ephemeral container", r.sub((*rig).testEphemeralContainer))
	t.Run("pod's control group goes with it", r.sub((*rig).testPodCgroup))
	t.Run("nodes join and leave", r.sub((*rig).testNodes))
	t.Run("killed components come back", r.sub((*rig).testRestart))
	t.Run("stopped components stay stopped", r.sub((*rig).testStop))

	// Now the worst: kill what would otherwise look after the others.
	spaces := r.namespaces()
	if len(spaces) < 10 {
		t.Errorf("found only %d namespaces of two nodes with pods", len(spaces))
	}
	r.kill(r.pid(roleSupervisor))
	r.kill(r.pid("node-2"))
	r.kill(r.pid("node-1/containerd"))
	if output, err := r.cmd(t.Context(), "status").CombinedOutput(); err == nil {
		t.Errorf("status is content with a cluster without supervisor:\n%s", output)
	}
	r.do("down")
	r.checkNothingLeft(before, spaces)
	if output := r.do("down"); !strings.Contains(output, "down already") {
		t.Errorf("a second down: %s", output)
	}
}

// TestUpKilled kills up in the middle of its work.
func TestUpKilled(t *testing.T) {
	r := newRig(t)
	before := takeInventory(t)
	up := r.cmd(t.Context(), "up")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	// Half-way: nodes exist, and the control plane is about to.
	r.await("etcd", func() error {
		if _, ok := r.cluster.unit("control-plane/etcd", "ready"); !ok {
			return fmt.Errorf("etcd is not up")
		}
		return nil
	})
	spaces := r.namespaces()
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = up.Wait() // reports the kill
	r.do("down")
	r.checkNothingLeft(before, spaces)
}

// sub makes a subtest of a method, with the same cluster.
func (r *rig) sub(test func(*rig)) func(*testing.T) {
	return func(t *testing.T) {
		test(&rig{T: t, cluster: r.cluster, command: r.command, dir: r.dir})
	}
}

// probe runs the probe in a pod and returns its output.
func (r *rig) probe(pod string, args ...string) string {
	r.Helper()
	return r.kubectl(append([]string{"exec", pod, "--", "/probe"}, args...)...)
}

func withPort(addresses []string, port int) []string {
	var list []string
	for _, a := range addresses {
		list = append(list, hostPort(a, port))
	}
	return list
}

func (r *rig) testNetwork() {
	field := func(path, object string) string { return r.kubectl("get", object, "-o", "jsonpath={"+path+"}") }
	pods := []string{"probe-1", "probe-2"}
	ips := map[string][]string{}
	for _, pod := range pods {
		ips[pod] = strings.Fields(field(".status.podIPs[*].ip", "pod/"+pod))
	}
	if one, two := field(".spec.nodeName", "pod/probe-1"), field(".spec.nodeName", "pod/probe-2"); one != "node-1" || two != "node-2" {
		r.Fatalf("the pods are on %s and %s", one, two)
	}
	services := strings.Fields(field(".spec.clusterIPs[*]", "service/probe"))
	if hasIPv6() && (len(services) != 2 || len(ips["probe-1"]) != 2) {
		r.Errorf("not dual-stack: Service %v, pod %v", services, ips["probe-1"])
	}

	// Name service and kube-proxy learn of new objects when they get to it.
	for _, client := range pods {
		for _, address := range append([]string{"probe:80", "probe-1.probes:8080", "probe-2.probes:8080", "172.30.0.11:30080", "172.30.0.12:30080"}, withPort(services, 80)...) {
			r.await(client+" to reach "+address, func() error {
				output, err := r.cmd(r.Context(), "kubectl", "exec", client, "--", "/probe", "get", address).CombinedOutput()
				if err != nil {
					return fmt.Errorf("%w: %s", err, output)
				}
				return nil
			})
		}
	}

	for _, client := range pods {
		for _, server := range pods {
			for i, address := range ips[server] {
				// With true addresses, on the same node and across.
				want := server + " sees " + ips[client][i]
				if got := r.probe(client, "get", hostPort(address, 8080)); got != want {
					r.Errorf("%s to %s: %q, want %q", client, address, got, want)
				}
			}
			// By the names of a headless Service.
			want := server + " sees " + ips[client][0]
			for _, name := range []string{server + ".probes", server + ".probes.default.svc.cluster.local"} {
				if got := r.probe(client, "get", name+":8080"); got != want {
					r.Errorf("%s to %s: %q, want %q", client, name, got, want)
				}
			}
		}
		// Through kube-proxy; several times, so that hairpin is among them.
		for _, address := range append(services, "probe") {
			servers := map[string]bool{}
			for range 20 {
				server, _, _ := strings.Cut(r.probe(client, "get", hostPort(address, 80)), " ")
				servers[server] = true
				if len(servers) == len(pods) {
					break
				}
			}
			if len(servers) != len(pods) || !servers["probe-1"] || !servers["probe-2"] {
				r.Errorf("%s to Service %s reached %v", client, address, servers)
			}
		}
		for _, node := range []string{"172.30.0.11", "172.30.0.12"} {
			if got := r.probe(client, "get", node+":30080"); !strings.Contains(got, " sees ") {
				r.Errorf("%s to NodePort of %s: %q", client, node, got)
			}
		}
	}
	if got := r.probe("probe-1", "lookup", "probes"); !strings.Contains(got, ips["probe-1"][0]) || !strings.Contains(got, ips["probe-2"][0]) {
		r.Errorf("the headless Service has the addresses %s", got)
	}
	if output, err := r.cmd(r.Context(), "kubectl", "exec", "probe-1", "--", "/probe", "lookup", "example.com").CombinedOutput(); err == nil || !strings.Contains(string(output), "no such host") {
		r.Errorf("looking up a name of the world: %v, %s", err, output)
	}
}

func hostPort(host string, port int) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

func (r *rig) testLogsAndExec() {
	if got := r.kubectl("logs", "probe-2"); !strings.HasPrefix(got, "serving on ") {
		r.Errorf("kubectl logs = %q", got)
	}
	if got := r.do("exec", "node-1", "--", "hostname"); got != "node-1\n" {
		r.Errorf("exec node-1 hostname = %q", got)
	}
	if got := r.do("exec", "control-plane", "ip", "-brief", "link", "show", bridgeName); !strings.HasPrefix(got, bridgeName+" ") {
		r.Errorf("exec control-plane ip link = %q", got)
	}
	cmd := r.cmd(r.Context(), "exec", "node-1", "sh", "-c", "exit 7")
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 7 {
		r.Errorf("the status of a command in a node: %v", err)
	}
}

// testEphemeralContainer checks what the gateway relies on: such a container
// sees its own path in the tree of control groups, its pod's, and nothing above
// the node's.
func (r *rig) testEphemeralContainer() {
	r.kubectl("patch", "pod", "probe-1", "--subresource=ephemeralcontainers", "--type=strategic", "-p",
		`{"spec": {"ephemeralContainers": [{"name": "look", "image": "localhost/probe:1", "imagePullPolicy": "Never",
		  "args": ["serve", ":8081"], "securityContext": {"privileged": true}}]}}`)
	const state = `jsonpath={.status.ephemeralContainerStatuses[0].state.running.startedAt}`
	r.await("the ephemeral container", func() error {
		if r.kubectl("get", "pod", "probe-1", "-o", state) == "" {
			return fmt.Errorf("it does not run")
		}
		return nil
	})
	look := func(args ...string) string {
		return r.kubectl(append([]string{"exec", "probe-1", "-c", "look", "--", "/probe"}, args...)...)
	}
	uid := r.kubectl("get", "pod", "probe-1", "-o", "jsonpath={.metadata.uid}")
	id := r.kubectl("get", "pod", "probe-1", "-o", "jsonpath={.status.ephemeralContainerStatuses[0].containerID}")
	id = strings.TrimPrefix(id, "containerd://")
	pod := "/kubepods/pod" + uid
	var own string
	for line := range strings.Lines(look("cat", "/proc/self/cgroup")) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			own = strings.TrimSpace(path)
		}
	}
	if own != pod+"/"+id {
		r.Errorf("/proc/self/cgroup says %q, want %q", own, pod+"/"+id)
	}
	if groups := look("ls", "/sys/fs/cgroup"+pod); !strings.Contains(groups, id) {
		r.Errorf("the pod's control group has no %s:\n%s", id, groups)
	}
	// The root that it sees is the node's.
	if groups := look("ls", "/sys/fs/cgroup"); !strings.Contains(groups, "kubepods\n") || !strings.Contains(groups, "system") || strings.Contains(groups, r.cluster.ID) {
		r.Errorf("its /sys/fs/cgroup is\n%s", groups)
	}
	// Containers without privileges see nothing of all this.
	if text := r.probe("probe-1", "cat", "/proc/self/cgroup"); !strings.Contains(text+"\n", "0::/\n") {
		r.Errorf("an ordinary container's /proc/self/cgroup is\n%s", text)
	}
}

func (r *rig) testPodCgroup() {
	uid := r.kubectl("get", "pod", "probe-2", "-o", "jsonpath={.metadata.uid}")
	group := filepath.Join(r.cgroup(), "node-2", "kubepods", "pod"+uid)
	if _, err := os.Stat(group); err != nil {
		r.Fatalf("the pod has no control group: %v", err)
	}
	r.kubectl("delete", "pod", "probe-2", "--wait")
	r.await("the end of the pod's control group", func() error {
		if _, err := os.Stat(group); !os.IsNotExist(err) {
			return fmt.Errorf("%s is still there: %v", group, err)
		}
		return nil
	})
}

func (r *rig) testNodes() {
	if output, err := r.cmd(r.Context(), "nodes", "4").CombinedOutput(); err == nil || !strings.Contains(string(output), "from 1 to 3\nhint: ") {
		r.Errorf("more nodes than there are: %v, %s", err, output)
	}
	for range 2 {
		r.do("nodes", "3")
		r.do("load", filepath.Join(r.dir, "probe.tar"))
		r.kubectl("run", "late", "--image=localhost/probe:1", "--image-pull-policy=Never", "--overrides", `{"spec":{"nodeName":"node-3"}}`)
		r.kubectl("wait", "--for=condition=Ready", "pod/late", "--timeout=60s")
		r.do("status")
		r.do("nodes", "2")
		if nodes := r.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"); nodes != "node-1 node-2" {
			r.Errorf("the nodes are %s", nodes)
		}
		r.kubectl("delete", "pod", "late", "--force", "--grace-period=0", "--ignore-not-found")
		r.do("status")
	}
}

func (r *rig) testRestart() {
	for _, unit := range []string{"node-1/kubelet", "node-2/containerd", "control-plane/etcd"} {
		killed := r.pid(unit)
		r.kill(killed)
		r.await(unit+" to come back", func() error {
			if pid, ok := r.cluster.unitPID(unit); !ok || pid == killed {
				return fmt.Errorf("it does not run")
			}
			return nil
		})
	}
	// The pods outlive that, and new ones can be made.
	r.await("the API server", func() error { return r.cmd(r.Context(), "kubectl", "get", "--raw", "/readyz").Run() })
	r.kubectl("apply", "-f", "testdata/pods.yaml")
	r.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")
	if restarts := r.kubectl("get", "pod", "probe-1", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); restarts != "0" {
		r.Errorf("the end of kubelet cost a container its life: %s restarts", restarts)
	}
}

// testStop keeps the API server from running for longer than a killed one needs
// to come back.
func (r *rig) testStop() {
	const unit = "control-plane/kube-apiserver"
	r.do("stop", unit)
	r.do("stop", unit) // once more changes nothing
	r.await(unit+" to be missed", func() error {
		if _, missed := r.cluster.unit(unit, "failed"); !missed {
			return fmt.Errorf("no failure is reported")
		}
		return nil
	})
	if _, running := r.cluster.unitPID(unit); running {
		r.Error("the API server runs")
	}
	if output, err := r.cmd(r.Context(), "kubectl", "get", "nodes", "--request-timeout=5s").CombinedOutput(); err == nil {
		r.Errorf("the API server answers: %s", output)
	}
	r.do("start", unit)
	r.do("start", unit)
	r.kubectl("get", "nodes")
	r.await("health", func() error { return r.cmd(r.Context(), "status").Run() })
	for _, wrong := range []string{"node-1", "node-1/kubelet", "sideways", ""} {
		if output, err := r.cmd(r.Context(), "stop", wrong).CombinedOutput(); err == nil || !strings.Contains(string(output), "is no component") {
			r.Errorf("stop %q: %v, %s", wrong, err, output)
		}
	}
}

// namespaces returns the namespaces of all of the cluster's processes that are
// not also ours, pods' included, as the text of their links.
func (r *rig) namespaces() map[string]bool {
	r.Helper()
	pids, err := processes(r.cgroup())
	if err != nil {
		r.Fatal(err)
	}
	found := map[string]bool{}
	for _, pid := range pids {
		for space := range namespacesOf(strconv.Itoa(pid)) {
			found[space] = true
		}
	}
	for space := range namespacesOf("self") {
		delete(found, space)
	}
	return found
}

// namespacesOf returns a process's namespaces, nothing if it has ended.
func namespacesOf(process string) map[string]bool {
	found := map[string]bool{}
	for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		if link, err := os.Readlink("/proc/" + process + "/ns/" + kind); err == nil {
			found[link] = true
		}
	}
	return found
}
