//go:build e2e

package e2e

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
)

// TestEdges shows a pod that talks to one with a gateway, directly and by a Service, to
// one without, and to one that refuses it.
func TestEdges(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pods := startPods(t, ns, podSpec("a", node1), podSpec("b", node2), podSpec("plain", node2), podSpec("strict", node2))
	a, b, plain, strict := pods[0], pods[1], pods[2], pods[3]
	kubectl(t, "-n", ns, "create", "service", "clusterip", "b", "--tcp=80:9000")
	object := get[corev1.Service](t, "-n", ns, "service", "b")
	vip := netip.AddrPortFrom(netip.MustParseAddr(object.Spec.ClusterIP), 80).String()
	awaitApp(t, "the Service leads to its pod", a.app, "talk", vip, "before")
	enable(t, nil, a, b)
	enable(t, []string{"--mode=strict", "--allow=ns/nobody/sa/*"}, strict)

	a.talk(b.addr(portEcho), "direct")
	a.talk(b.addr(portEcho), "direct")
	a.talk(vip, "by the Service")
	a.talk(plain.addr(portEcho), "in plaintext")
	for _, from := range []*pod{a, plain} {
		if r := from.app("talk", strict.addr(portEcho), "refused"); r.Error == "" {
			t.Errorf("%s reached a pod that does not allow it: %+v", from, r)
		}
	}

	both := []string{edges.SourceSide, edges.DestinationSide}
	wanted := []struct {
		source, destination string
		port                uint16
		verdict             edges.Verdict
		wire                string
		connections         uint64
		seenBy              []string
	}{
		{"pod/a", "pod/b", portEcho, edges.Encrypted, "port", 2, both},
		{"pod/a", "svc/b", 80, edges.Encrypted, "inband", 1, both},
		{"pod/a", "pod/plain", portEcho, edges.Plaintext, "", 1, both[:1]},
		{"pod/a", "pod/strict", portEcho, edges.Refused, "", 1, both},
		{"pod/plain", "pod/strict", portEcho, edges.Refused, "", 1, both[1:]},
	}
	var list edges.List
	eventually(t, "the edges are there", func() error {
		list = parse[edges.List](t, gateway(t, "-n", ns, "status", "--edges", "-o", "json").stdout)
		for _, w := range wanted {
			if !slices.ContainsFunc(list.Items, func(e edges.Edge) bool {
				return e.Source.Text(ns) == w.source && e.Destination.Text(ns) == w.destination && e.Port == w.port &&
					e.Verdict == w.verdict && e.Wire == w.wire && e.Connections >= w.connections && slices.Equal(e.SeenBy, w.seenBy) &&
					(e.Reason == "") == (w.verdict == edges.Encrypted)
			}) {
				return fmt.Errorf("%+v is not among %+v", w, list.Items)
			}
		}
		return nil
	})
	for _, e := range list.Items {
		if e.Destination.Kind == "svc" && (len(e.Backends) != 1 || e.Backends[0].Name != "b") {
			t.Errorf("behind the Service are %+v", e.Backends)
		}
	}

	out := gateway(t, "-n", ns, "status", "--edges")
	for _, line := range []string{"pod/a       pod/b:9000        √ ", "pod/a       pod/plain:9000    × peer has no gateway", "pod/a       svc/b:80          √ "} {
		if !strings.Contains(out.stdout, line) {
			t.Errorf("%q is not in\n%s%s", line, out.stdout, out.stderr)
		}
	}
	if dot := gateway(t, "-n", ns, "status", "-o", "dot").stdout; !strings.Contains(dot, `[color="green", label=":9000", `) ||
		!strings.Contains(dot, `[color="red", `) || !strings.Contains(dot, "style=dashed") {
		t.Errorf("the graph is\n%s", dot)
	}
	svg := xml.NewDecoder(strings.NewReader(gateway(t, "-n", ns, "status", "-o", "svg").stdout))
	for {
		if _, err := svg.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the picture: %v", err)
		}
	}
}
