//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// annotation asks watch for a gateway.
const annotation = "kube-gateway.io"

// startWatch runs watch until the test ends it as Ctrl-C does. It must run until then.
func startWatch(t *testing.T, args ...string) {
	t.Helper()
	w := start(t, "kubectl", append([]string{"gateway", "watch"}, args...)...)
	t.Cleanup(func() {
		select {
		case <-w.ended:
			t.Errorf("watch ended by itself: %v", w.err)
		default:
			if err := w.cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Errorf("ending watch: %v", err)
			}
			select {
			case <-w.ended:
			case <-time.After(30 * time.Second):
				t.Error("watch does not end")
			}
		}
		if t.Failed() {
			t.Logf("watch %v said:\n%s%s", args, &w.stdout, &w.stderr)
		}
	})
}

// gateways returns how many gateways a pod's spec has, and how many run.
func gateways(object *corev1.Pod) (listed, running int) {
	for _, c := range object.Spec.EphemeralContainers {
		if strings.HasPrefix(c.Name, "kube-gateway") {
			listed++
		}
	}
	for _, c := range object.Status.EphemeralContainerStatuses {
		if strings.HasPrefix(c.Name, "kube-gateway") && c.State.Running != nil {
			running++
		}
	}
	return listed, running
}

// awaitGateways waits until each pod that a selector selects has that many
// gateways in its spec and one that is ready, or none that runs if want is 0.
func awaitGateways(t *testing.T, ns, selector string, pods int, ready bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d pods of %s, ready %v", pods, selector, ready), func() error {
		// A status of many pods costs more than this.
		if n := runningGateways(t, ns, selector); ready && n < pods || !ready && n > 0 {
			return fmt.Errorf("%d run", n)
		}
		var list struct {
			Items []struct {
				Pod   string `json:"pod"`
				Name  string `json:"name"`
				State string `json:"state"`
			} `json:"items"`
		}
		out := tryGateway(t, "-n", ns, "status", "-l", selector, "-o", "json")
		if err := json.Unmarshal([]byte(out.stdout), &list); err != nil && ready {
			return fmt.Errorf("status: exit %d, %s%s", out.code, out.stdout, out.stderr)
		}
		states := map[string]int{}
		for _, item := range list.Items {
			states[item.State]++
		}
		if ready && states[string(api.Ready)] != pods || !ready && states[string(api.Ready)] != 0 {
			return fmt.Errorf("states are %v", states)
		}
		return nil
	})
}

// checkContainers fails the test unless each pod that a selector selects has
// that many gateways, of which one runs.
func checkContainers(t *testing.T, ns, selector string, pods, want int) {
	t.Helper()
	list := get[corev1.PodList](t, "-n", ns, "pods", "-l", selector)
	if len(list.Items) != pods {
		t.Errorf("%d pods of %s, want %d", len(list.Items), selector, pods)
	}
	for i := range list.Items {
		if listed, running := gateways(&list.Items[i]); listed != want || running != 1 {
			t.Errorf("pod/%s has %d gateways, of which %d run; want %d", list.Items[i].Name, listed, running, want)
		}
	}
}

// annotate sets the annotation of an object, or removes it with "".
func annotate(t *testing.T, ns, object, value string) {
	t.Helper()
	change := annotation + "=" + value
	if value == "" {
		change = annotation + "-"
	}
	kubectl(t, "-n", ns, "annotate", "--overwrite", object, change)
}

// TestWatch annotates pods and namespaces, and takes that back.
func TestWatch(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	annotated, plain := podSpec("annotated", node1), podSpec("plain", node2)
	annotated.Annotations = map[string]string{annotation: "true"}
	startPods(t, ns, annotated, plain)
	deployment(t, ns, "named", 2, node2)
	startWatch(t, "-n", ns, "deploy/named")
	awaitGateways(t, ns, "app=annotated", 1, true)
	awaitGateways(t, ns, "app=named", 2, true)
	awaitGateways(t, ns, "app=plain", 0, false)
	a, p := findPod(t, ns, "annotated"), findPod(t, ns, "plain")
	l := startLoadWith(a, []string{shortLife}, p.addr(portTraffic), podsOf(t, ns, "app=named")[0].addr(portTraffic))
	noSecrets(t, ns)
	checkNoKey(t, ns)

	annotate(t, ns, "pod/plain", "true")
	awaitGateways(t, ns, "app=plain", 1, true)
	annotate(t, ns, "pod/plain", "")
	awaitGateways(t, ns, "app=plain", 1, false)
	annotate(t, "default", "namespace/"+ns, "true")
	awaitGateways(t, ns, "app=plain", 1, true)
	annotate(t, ns, "pod/plain", "false") // the pod's own word counts
	awaitGateways(t, ns, "app=plain", 1, false)
	annotate(t, "default", "namespace/"+ns, "")
	l.more(10)
	l.stopClean(p)

	// What is named stays, also in new pods.
	kubectl(t, "-n", ns, "scale", "deploy/named", "--replicas=3")
	awaitGateways(t, ns, "app=named", 3, true)
	checkContainers(t, ns, "app=named", 3, 1)
	// A gateway that nobody annotated but somebody enabled is none of watch's.
	other := startPods(t, ns, podSpec("other", node1))[0]
	enable(t, nil, other)
	annotate(t, ns, "pod/other", "true")
	annotate(t, ns, "pod/other", "")
	// A gateway that died is replaced, one after the other.
	killWhole(t, a)
	awaitGateways(t, ns, "app=annotated", 1, true)
	checkContainers(t, ns, "app=annotated", 1, 2)
	// So is one that was lost with its sandbox.
	newSandbox(t, a)
	awaitGateways(t, ns, "app=annotated", 1, true)
	checkContainers(t, ns, "app=annotated", 1, 3)
	checkContainers(t, ns, "app=other", 1, 1)
}

// TestWatchRenews renews certificates that live shortly, under traffic.
func TestWatchRenews(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	kubectl(t, "annotate", "namespace", ns, annotation+"=true")
	a, b := twoPods(t, ns)
	startWatch(t, "-n", ns, "--cert-ttl=45s", "--mode=strict")
	awaitGateways(t, ns, "test=e2e", 2, true)
	l := startLoad(a, b.addr(portTraffic), b.clusterIP())
	first := map[*pod]string{a: a.status().Cert.Serial, b: b.status().Cert.Serial}
	for p, serial := range first {
		eventually(t, "the certificate of "+p.String()+" is renewed", func() error {
			cert := p.status().Cert
			if time.Now().After(cert.NotAfter) {
				t.Fatalf("the certificate of %s ran out", p)
			}
			if cert.Serial == serial {
				return errors.New("not yet")
			}
			return nil
		})
	}
	l.more(10)
	l.stopClean(b)
	checkContainers(t, ns, "test=e2e", 2, 1)
}

// TestWatchFollowsCluster: watch tells the gateways that run of a new range of Services, of host ports
// and of external addresses, and of those that have changed or gone. It does not run beside other
// tests, whose gateways would lack all this.
func TestWatchFollowsCluster(t *testing.T) {
	ns := namespace(t)
	p := startPods(t, ns, podSpec("a", node1))[0]
	enable(t, nil, p)
	startWatch(t, "-n", ns)
	covers := func(services bool, endpoints ...string) {
		t.Helper()
		eventually(t, fmt.Sprint("the gateway knows ", endpoints), func() error {
			c := p.status().Capture.Coverage
			var got []string
			for _, endpoint := range c.Endpoints {
				if endpoint.Addr().Is4() {
					got = append(got, endpoint.String())
				}
			}
			if slices.Contains(c.Services, netip.MustParsePrefix(newRange)) != services || !slices.Equal(got, endpoints) {
				return fmt.Errorf("it knows %v and %v", c.Services, got)
			}
			return nil
		})
	}
	ported := func(name string, port int32) {
		t.Helper()
		spec := podSpec(name, node1)
		spec.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: portEcho, HostPort: port}}
		apply(t, ns, mustYAML(t, spec))
	}
	external := func(ip string) {
		t.Helper()
		kubectl(t, "-n", ns, "patch", "service", "external", "-p", `{"spec":{"externalIPs":["`+ip+`"]}}`)
	}
	covers(false)

	newServiceRange(t, ns)
	ported("first", 9411)
	kubectl(t, "-n", ns, "create", "service", "clusterip", "external", "--tcp=80")
	external("172.30.1.7")
	covers(true, nodeIP+":9411", "172.30.1.7:80")

	kubectl(t, "-n", ns, "delete", "pod", "first", "--wait=false")
	ported("second", 9412)
	external("172.30.1.8")
	covers(true, nodeIP+":9412", "172.30.1.8:80")

	// The Service may have an address of the range, which cannot end before it.
	kubectl(t, "-n", ns, "delete", "service", "external")
	kubectl(t, "delete", "servicecidr", "leaks", "--timeout="+patience.String())
	covers(false, nodeIP+":9412")
}

// manyPods is how many pods are created at once.
const manyPods = 50

// startGroup creates n pods at once, labelled with their group, and does not
// wait for them.
func startGroup(t *testing.T, ns, group string, n int) {
	t.Helper()
	var specs []*corev1.Pod
	for i := range n {
		spec := podSpec(fmt.Sprintf("%s-%02d", group, i), []string{node1, node2}[i%2])
		spec.Labels["group"] = group
		specs = append(specs, spec)
	}
	createPods(t, ns, specs...)
}

// watchMany creates n pods of the group many, all of which watch gives one gateway.
func watchMany(t *testing.T, ns string, n int) {
	t.Helper()
	start := time.Now()
	startGroup(t, ns, "many", n)
	awaitGateways(t, ns, "group=many", n, true)
	t.Logf("%d pods were enabled %v after they were created", n, time.Since(start).Round(time.Second))
	checkContainers(t, ns, "group=many", n, 1)
	noSecrets(t, ns)
}

// runningGateways counts the gateways that run in the pods that a selector selects.
func runningGateways(t *testing.T, ns, selector string) int {
	t.Helper()
	list := get[corev1.PodList](t, "-n", ns, "pods", "-l", selector)
	n := 0
	for i := range list.Items {
		_, running := gateways(&list.Items[i])
		n += running
	}
	return n
}

// TestWatchManyPods creates pods at once, all of which get one gateway each, and
// takes the API server away for a minute under traffic; the watch recovers, and
// finds what it missed.
func TestWatchManyPods(t *testing.T) {
	ns := namespace(t)
	kubectl(t, "annotate", "namespace", ns, annotation+"=true")
	startWatch(t, "-n", ns)
	watchMany(t, ns, manyPods)

	a, b := findPod(t, ns, "many-00"), findPod(t, ns, "many-01")
	l := startLoad(a, b.addr(portTraffic), b.clusterIP())
	victim := findPod(t, ns, "many-02")
	withoutAPIServer(t, apiServerDown, func() {
		// It dies while nobody can be told.
		killWhole(t, victim)
	})
	eventually(t, "watch replaces what died meanwhile", func() error {
		object := get[corev1.Pod](t, "-n", ns, "pod", "many-02")
		if listed, running := gateways(&object); listed != 2 || running != 1 {
			return fmt.Errorf("%d gateways, %d run", listed, running)
		}
		return nil
	})
	l.more(10)
	l.stopClean(b)
	// New pods are seen again.
	startPods(t, ns, podSpec("late", node1))
	awaitGateways(t, ns, "app=late", 1, true)
	awaitGateways(t, ns, "group=many", manyPods, true)
}
