//go:build e2e

package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// shortTTL is the life of certificates that are to run out. It is long enough
// for two pods to get them and to connect.
const shortTTL = 25 * time.Second

// TestExpiry lets certificates run out: status warns before and tells after, new
// connections fail, those that are open go on, and renewal works all the same.
func TestExpiry(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pods := startPods(t, ns, podSpec("a", node1), podSpec("b", node2), podSpec("fresh", node1))
	a, b, fresh := pods[0], pods[1], pods[2]
	enable(t, []string{"--mode=strict"}, pods...)
	gateway(t, "-n", ns, "rotate", a.String(), b.String(), "--cert-ttl="+shortTTL.String())
	l := startLoadWith(a, []string{"--workers=0"}, b.addr(portTraffic))

	out := tryGateway(t, "-n", ns, "status", "--fail-if-expiring=48h")
	if text := out.stdout + out.stderr; out.code == 0 || !strings.Contains(text, "pod/a") || !strings.Contains(text, "kubectl gateway rotate") {
		t.Errorf("certificates of %v: exit %d, %s", shortTTL, out.code, text)
	}
	if strings.Contains(out.stderr, fresh.String()) {
		t.Errorf("a certificate that lives long is told of: %s", out.stderr)
	}
	gateway(t, "-n", ns, "status", fresh.String(), "--fail-if-expiring=48h")

	var end time.Time
	for _, p := range []*pod{a, b} {
		if notAfter := p.status().Cert.NotAfter; notAfter.After(end) {
			end = notAfter
		}
	}
	eventually(t, "the certificates run out", func() error {
		if time.Now().Before(end) {
			return errors.New("they are valid")
		}
		return nil
	})
	if r := a.app("talk", b.addr(portEcho), "expired"); r.Error == "" || r.Received != "" {
		t.Errorf("with expired certificates: %+v", r)
	}
	out = tryGateway(t, "-n", ns, "status", "--fail-if-expiring=1s")
	if text := out.stdout + out.stderr; out.code == 0 || !strings.Contains(text, "expired") {
		t.Errorf("expired certificates: exit %d, %s", out.code, text)
	}
	logs := kubectl(t, "-n", ns, "logs", a.name, "-c", "kube-gateway") + kubectl(t, "-n", ns, "logs", b.name, "-c", "kube-gateway")
	if !strings.Contains(logs, "expired") {
		t.Error("the gateways' logs do not tell of the expiry")
	}

	gateway(t, "-n", ns, "rotate", "pod/a", "pod/b")
	a.talk(b.addr(portEcho), "renewed")
	gateway(t, "-n", ns, "status", "--fail-if-expiring=48h")
	before := l.show()
	l.await("the connections of before go on", func(s trafficSummary) bool { return s.Messages > before.Messages })
	l.stopClean(b)
}
