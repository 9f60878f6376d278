//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// roots returns the fingerprints that a gateway trusts.
func (p *pod) roots() []string {
	p.t.Helper()
	return p.status().Cert.Authorities
}

// publishedRoots counts the certificates of the published trust bundle.
func publishedRoots(t *testing.T) int {
	t.Helper()
	bundle := get[corev1.ConfigMap](t, "-n", "kube-system", "configmap", "kube-gateway-trust")
	return strings.Count(bundle.Data["ca.crt"], "-----BEGIN CERTIFICATE-----")
}

// lineCounter counts the lines that a command prints, and calls at once when
// there are as many as it waits for.
type lineCounter struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines int
	want  int
	call  func()
}

func (c *lineCounter) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.lines
	c.lines += bytes.Count(b, []byte("\n"))
	if before < c.want && c.lines >= c.want {
		c.call()
	}
	return c.text.Write(b)
}

// interruptedRotation runs "rotate --ca" and interrupts it when it has said that
// many lines. It reports whether it was over before.
func interruptedRotation(t *testing.T, lines int) (over bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "kubectl", "gateway", "rotate", "--ca", "--yes")
	// kubectl replaces itself by the plugin, so the signal reaches it.
	said := &lineCounter{want: lines, call: func() { cmd.Process.Signal(syscall.SIGINT) }}
	cmd.Stdout, cmd.Stderr = said, said
	err := cmd.Run()
	t.Logf("interrupted after %d lines: %v\n%s", lines, err, said.text.String())
	return err == nil
}

// TestRotateCA replaces the authority of the cluster under traffic: at once, then
// with an interruption at every step, then with a gateway that does not answer.
func TestRotateCA(t *testing.T) {
	if publishedRoots(t) > 1 {
		gateway(t, "rotate", "--ca", "--yes") // a test that was killed has begun it
	}
	ns, other := namespace(t), namespace(t)
	a, b := twoPods(t, ns)
	far := startPods(t, other, podSpec("far", node2))[0]
	all := []*pod{a, b, far}
	enable(t, []string{"--mode=strict"}, a, b)
	enable(t, []string{"--mode=strict"}, far)
	out := startLoad(a, b.addr(portTraffic), b.clusterIP(), far.addr(portTraffic))
	in := startLoad(far, a.addr(portTraffic))
	// follows fails the test unless the rotation from an old root is complete.
	follows := func(what string, old string) (now string) {
		t.Helper()
		if n := publishedRoots(t); n != 1 {
			t.Errorf("%s: %d roots are published", what, n)
		}
		for _, p := range all {
			cert := p.status().Cert
			if len(cert.Authorities) != 1 || cert.Authorities[0] == old || cert.Issuer != cert.Authorities[0] {
				t.Errorf("%s: %s has the issuer %s and trusts %v; %s is gone", what, p, cert.Issuer, cert.Authorities, old)
			}
			if now != "" && cert.Issuer != now {
				t.Errorf("%s: two authorities, %s and %s", what, now, cert.Issuer)
			}
			now = cert.Issuer
		}
		out.more(10)
		in.more(10)
		return now
	}
	root := a.status().Cert.Issuer
	// A pod that ends meanwhile is in nobody's way.
	enable(t, []string{"--mode=strict"}, startPods(t, ns, podSpec("leaving", node2))[0])
	must.Do(t, client(t).CoreV1().Pods(ns).Delete(t.Context(), "leaving", metav1.DeleteOptions{}))
	gateway(t, "rotate", "--ca", "--yes")
	root = follows("in one go", root)

	interruptions := 0
	for lines := 1; !interruptedRotation(t, lines); lines++ {
		interruptions++
		out.more(3)
		in.more(3)
		// Whoever is enabled meanwhile is understood by all others.
		if lines == 3 {
			late := startPods(t, ns, podSpec("late", node1))[0]
			enable(t, []string{"--mode=strict"}, late)
			late.talk(b.addr(portEcho), "late")
			late.talk(far.addr(portEcho), "late")
			a.talk(late.addr(portEcho), "late")
			all = append(all, late)
		}
		if lines > 100 {
			t.Fatal("the rotation does not end")
		}
	}
	if interruptions < 3 {
		t.Errorf("only %d interruptions", interruptions)
	}
	root = follows("interrupted", root)

	// It runs, but it does not answer.
	supervisors := processesOf(t, far, "supervise")
	signal := func(s syscall.Signal) {
		for _, pid := range supervisors {
			if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Errorf("signalling process %d: %v", pid, err)
			}
		}
	}
	signal(syscall.SIGSTOP)
	t.Cleanup(func() { signal(syscall.SIGCONT) })
	said := tryGateway(t, "rotate", "--ca", "--yes", "--timeout=5s")
	if text := said.stdout + said.stderr; said.code == 0 || !strings.Contains(text, far.name) || !strings.Contains(text, "hint:") {
		t.Errorf("with a gateway that does not answer: exit %d, %s", said.code, text)
	}
	if n := publishedRoots(t); n != 2 {
		t.Errorf("%d roots are published although a gateway does not answer", n)
	}
	if roots := a.roots(); !strings.Contains(fmt.Sprint(roots), root) {
		t.Errorf("%s lost the root %s that %s needs: %v", a, root, far, roots)
	}
	out.more(3)
	in.more(3)
	signal(syscall.SIGCONT)
	gateway(t, "rotate", "--ca", "--yes")
	follows("after it answers", root)
	in.stopClean(a)
	out.stopClean(b, far)
}

// trustBundle returns the published trust bundle.
func trustBundle(t *testing.T) *corev1.ConfigMap {
	t.Helper()
	bundle := get[corev1.ConfigMap](t, "-n", "kube-system", "configmap", "kube-gateway-trust")
	return &bundle
}

// TestRetiredRootIsPutBack: an authority is replaced because its key has leaked. Whoever has that key, and may
// write the trust bundle, puts back what the bundle said meanwhile. It runs beside no other test, which would
// trust the same bundle.
func TestRetiredRootIsPutBack(t *testing.T) {
	ns := namespace(t)
	a := startPods(t, ns, podSpec("a", node1))[0]
	enable(t, nil, a)
	old := a.status().Cert.Issuer
	for lines := 1; publishedRoots(t) != 2; lines++ {
		if interruptedRotation(t, lines) {
			t.Fatal("the rotation was over before both roots were seen")
		}
	}
	during := trustBundle(t)
	if out := gateway(t, "-n", ns, "rotate", a.String()); !strings.Contains(out.stderr, "gateways are given two roots") {
		t.Errorf("that there are two roots is not said: %s", out.stderr)
	}
	gateway(t, "rotate", "--ca", "--yes")

	back := trustBundle(t)
	back.Data, back.Annotations = during.Data, during.Annotations
	t.Cleanup(func() {
		runCommand(context.WithoutCancel(t.Context()), t, "", "kubectl", "gateway", "init-ca")
	})
	if out := runCommand(t.Context(), t, mustYAML(t, back), "kubectl", "replace", "-f", "-"); out.code != 0 {
		t.Fatalf("putting the old bundle back: %s", out.stderr)
	}
	late := startPods(t, ns, podSpec("late", node2))[0]
	for what, out := range map[string]output{
		"enable": enable(t, nil, late), "rotate": gateway(t, "-n", ns, "rotate", a.String()),
	} {
		if !strings.Contains(out.stderr, "has root "+old[:16]+" again") {
			t.Errorf("%s does not say that the old root is back: %s", what, out.stderr)
		}
	}
	for _, p := range []*pod{a, late} {
		if roots := p.roots(); len(roots) != 1 || roots[0] == old {
			t.Errorf("%s trusts %v; %s was retired", p, roots, old)
		}
	}
	a.talk(late.addr(portEcho), "canary")
	if out := tryGateway(t, "rotate", "--ca", "--yes"); out.code == 0 || !strings.Contains(out.stderr, "kubectl gateway init-ca") {
		t.Errorf("rotate --ca with the old root in the bundle: exit %d, %s%s", out.code, out.stdout, out.stderr)
	}
	gateway(t, "init-ca")
	if n := publishedRoots(t); n != 1 {
		t.Errorf("%d roots are published after init-ca", n)
	}
}
