//go:build e2e

package e2e

import "testing"

// everyThird is which writes fail in the tests of that.
const everyThird = 3

// untilDone runs a verb through a front until it succeeds, as its user would,
// and returns how often it took.
func (f *front) untilDone(args ...string) int {
	f.t.Helper()
	const enough = 20
	for n := 1; ; n++ {
		out := f.gateway(args...)
		if out.code == 0 {
			return n
		}
		if n == enough {
			f.t.Fatalf("kubectl gateway %v fails %d times: exit %d\n%s%s", args, n, out.code, out.stdout, out.stderr)
		}
	}
}

// TestEveryThirdWriteFails drives verbs through an API server that fails every
// third write, exec or not, in all kinds of ways, under traffic: they converge,
// nothing is doubled and nothing is left.
func TestEveryThirdWriteFails(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	startGroup(t, ns, "group", 8)
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pods", "--all", "--timeout="+patience.String())
	l := startLoadWith(a, []string{shortLife}, b.addr(portTraffic), b.clusterIP())
	f := newFront(t)
	f.every.Store(everyThird)
	const all = "test=e2e"
	for round, delivery := range []string{"secret", "csr"} {
		tries := f.untilDone("-n", ns, "enable", "-l", all, "--delivery="+delivery)
		awaitGateways(t, ns, all, 10, true)
		checkContainers(t, ns, all, 10, round+1)
		noSecrets(t, ns)
		serial := a.status().Cert.Serial
		renewals := f.untilDone("-n", ns, "rotate", "-l", all)
		if a.status().Cert.Serial == serial {
			t.Error("the certificate was not renewed")
		}
		if !encrypted(t, a, b) {
			t.Error("plaintext is on the wire")
		}
		objects := gatewayObjects(t, a)
		ends := f.untilDone("-n", ns, "disable", "-l", all)
		objects.checkGone(t, a)
		t.Logf("with %s: enabled at try %d, rotated at try %d, disabled at try %d", delivery, tries, renewals, ends)
	}
	l.more(10)
	l.stopClean(b)
	t.Log(f.report())
}

// faultyPods are enough for each kind of fault to come several times.
const faultyPods = 24

// TestWatchEveryThirdWriteFails has watch do its work against such a server.
func TestWatchEveryThirdWriteFails(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	kubectl(t, "annotate", "namespace", ns, annotation+"=true")
	f := newFront(t)
	f.every.Store(everyThird)
	startWatch(t, "-n", ns, "--kubeconfig="+f.kubeconfig)
	watchMany(t, ns, faultyPods)
	a, b := findPod(t, ns, "many-00"), findPod(t, ns, "many-01")
	l := startLoadWith(a, []string{shortLife}, b.addr(portTraffic), b.clusterIP())
	f.down()
	l.more(10)
	f.up()
	startGroup(t, ns, "late", 2)
	awaitGateways(t, ns, "group=late", 2, true)
	annotate(t, "default", "namespace/"+ns, "")
	awaitGateways(t, ns, "test=e2e", faultyPods+2, false)
	l.more(10)
	l.stopClean(b)
	t.Log(f.report())
}
