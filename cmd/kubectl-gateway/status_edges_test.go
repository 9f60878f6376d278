package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
)

// edgeGateways answers 'ctl edges' of each pod; more is what it says beside the rest.
type edgeGateways struct {
	mu    sync.Mutex
	count uint64
	asked int
	fail  bool
	// each is called with the number of every question.
	each func(int)
}

func (g *edgeGateways) run(pod string, command []string) (stdout, stderr string, code int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if strings.Join(command, " ") != "/kube-gateway ctl edges -o json" {
		return "", fmt.Sprintf("error: asked %q\n", command), 1
	}
	g.asked++
	if g.each != nil {
		g.each(g.asked)
	}
	now := time.Now()
	at := func(direction, source, destination, verdict, reason string) api.Edge {
		e := api.Edge{Direction: direction, Source: netip.MustParseAddr(source), Destination: netip.MustParseAddrPort(destination),
			Wire: api.WireNone, Verdict: verdict, Reason: reason, Connections: 1 + g.count, Sent: 2048, LastSeen: now.Add(-time.Hour)}
		if verdict == api.EdgeEncrypted {
			e.Peer, e.Wire = "spiffe://td/ns/demo/sa/default", api.WirePort
		}
		return e
	}
	all := api.Edges{Pod: api.PodRef{UID: "uid-" + pod}, Time: now, Since: now.Add(-2 * time.Hour)}
	switch pod {
	case "web":
		all.Edges = []api.Edge{
			at(api.Outbound, "10.0.1.1", "10.0.1.2:5432", api.EdgeEncrypted, ""),
			at(api.Outbound, "10.0.1.1", "10.96.0.5:80", api.EdgePlaintext, "peer has no gateway: \x1b[2Jconnection refused"),
			at(api.Outbound, "10.0.1.1", "198.51.100.7:443", api.EdgeRefused, "peer has no gateway: no answer"),
		}
	case "db":
		all.Edges = []api.Edge{at(api.Inbound, "10.0.1.1", "10.0.1.2:5432", api.EdgeEncrypted, "")}
	case "old":
		return "", "error: unknown control command \"edges\"\nhint: see 'kube-gateway help' for the control commands\n", 1
	}
	if g.fail {
		return "", "error: \x1b[2Jtrouble\n", 1
	}
	text, err := json.Marshal(all)
	if err != nil {
		return "", err.Error(), 3
	}
	return string(text), "", 0
}

func edgesServer(g *edgeGateways, pods ...string) *apiServer {
	s := &apiServer{gateway: g.run, objects: map[string]string{
		"/api/v1/services": `{"kind":"ServiceList","apiVersion":"v1","items":[{"metadata":{"namespace":"demo","name":"api"},"spec":{"clusterIPs":["10.96.0.5"],"ports":[{"port":80}]}}]}`,
	}}
	for i, name := range pods {
		state := gatewayRuns()
		if name == "bystander" {
			state = nil
		}
		pod := podWithGateway("demo", name, state)
		pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.1.%d", i+1)}}
		s.pods = append(s.pods, pod)
	}
	return s
}

// TestStatusEdges compares everything that is printed.
func TestStatusEdges(t *testing.T) {
	all := []string{"web", "db", "bystander", "old"}
	for name, args := range map[string][]string{
		"status-edges.golden":          {"web", "db"},
		"status-edges-all.golden":      {},
		"status-edges-wide.golden":     {"-A", "-o", "wide"},
		"status-edges-workload.golden": {"web", "--by", "workload", "gone"},
		"status-edges-dot.golden":      {"web", "-o", "dot"},
		"status-edges-svg.golden":      {"web", "old", "-o", "svg"},
		"status-edges-none.golden":     {"bystander"},
		"status-edges-columns.golden":  {"-A", "-o", "custom-columns=FROM:.source.name,TO:.destination.name,PORT:.port,HOW:.verdict", "--sort-by=.port", "--no-headers"},
		"status-edges-sorted.golden":   {"web", "db", "--sort-by={.destination.name}", "--no-headers"},
		"status-edges-jsonpath.golden": {"web", "-o", `jsonpath={range .items[*]}{.destination.address}:{.port} {.verdict}{"\n"}{end}`},
	} {
		code, stdout, stderr := edgesServer(&edgeGateways{}, all...).start(t)(append([]string{"status", "--edges"}, args...)...)
		golden.Check(t, name, fmt.Sprintf("exit code %d\n--- stdout\n%s--- stderr\n%s", code, stdout, stderr))
		if strings.Contains(stdout+stderr, "\x1b") {
			t.Errorf("%s: something harmful is left in %q", name, stdout+stderr)
		}
	}
	// The pictures need no --edges.
	code, dot, _ := edgesServer(&edgeGateways{}, all...).start(t)("status", "web", "-o", "dot")
	if code != 0 || !strings.HasPrefix(dot, "digraph") {
		t.Errorf("exit code %d, %s", code, dot)
	}
}

func TestStatusEdgesForPrograms(t *testing.T) {
	run := edgesServer(&edgeGateways{}, "web", "db").start(t)
	code, stdout, stderr := run("status", "--edges", "-o", "json")
	var list edges.List
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %v, %s", code, err, stderr)
	}
	if list.Kind != edges.Kind || len(list.Items) != 3 || list.Items[0].Destination.Name != "db" ||
		!slices.Equal(list.Items[0].SeenBy, []string{"source", "destination"}) {
		t.Errorf("%+v", list)
	}
	if age := time.Since(list.Items[0].LastSeen); age < 59*time.Minute || age > 61*time.Minute {
		t.Errorf("last seen %v ago", age)
	}
	if code, stdout, _ = run("status", "--edges", "-o", "yaml"); code != 0 || !strings.Contains(stdout, "kind: GatewayEdgeList\n") || strings.Contains(stdout, "\x1b") {
		t.Errorf("exit code %d, %s", code, stdout)
	}
}

// TestStatusEdgesWithFewRights names what may be listed, and says what may not.
func TestStatusEdgesWithFewRights(t *testing.T) {
	server := edgesServer(&edgeGateways{}, "web", "db")
	server.objects = map[string]string{"/api/v1/pods": forbidden, "/api/v1/services": forbidden, "/api/v1/namespaces/demo/services": forbidden}
	prints(t, server.start(t), printed{"status --edges", 0, "pod/web   pod/db:5432 | 10.96.0.5:80 ",
		"note: Services are shown by their addresses|note: pods of other namespaces are shown by their addresses"})
}

func TestStatusFlagsThatMakeNoSense(t *testing.T) {
	fails(t, edgesServer(&edgeGateways{}, "web").start(t), 1, map[string]string{
		"status --by=workload": "hint: add --edges", "status --edges --by=node": "--by", "status --watch -o json": "--watch shows tables", "status -w -o svg": "--watch shows tables",
		"status --edges -o name": "edges have no names", "status -w -o jsonpath={.items}": "--watch shows tables, and not jsonpath\n",
		"status --sort-by=.x": `couldn't find any field with path "{.x}" in the list of objects`, "status --edges --sort-by=.x": `couldn't find any field with path "{.x}"`,
		"status --watch --interval=0s": "not positive", "status --edges --fail-if-expiring=1d": "does not go with", "status --watch --fail-if-expiring=1d": "does not go with",
		"status --watch -f -": "standard input",
	})
}

// TestStatusWatchOffATerminal prints a block only when something has changed, goes on
// after a failure, and ends with its context.
func TestStatusWatchOffATerminal(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g := &edgeGateways{}
	g.each = func(n int) {
		switch n {
		case 10:
			g.count = 7
		case 20:
			g.fail = true
		case 30:
			g.fail = false
		case 40:
			cancel()
		}
	}
	var stdout, stderr bytes.Buffer
	streams := genericiooptions.IOStreams{In: strings.NewReader(""), Out: &stdout, ErrOut: &stderr}
	code := runOn(t, ctx, edgesServer(g, "web", "db"), streams, "status", "db", "--edges", "--watch", "--interval=1ms")
	if blocks := strings.Count(stdout.String(), "SOURCE "); code != 0 || blocks != 3 {
		t.Errorf("exit code %d, %d blocks:\n%s\n%s", code, blocks, stdout.String(), stderr.String())
	}
	if strings.Contains(stdout.String(), "\n\n\n") || strings.HasPrefix(stdout.String(), "\n") {
		t.Errorf("the blocks are not apart by a line:\n%s", stdout.String())
	}
	if n := strings.Count(stderr.String(), "trouble"); n != 1 || strings.Contains(stderr.String(), "\x1b") {
		t.Errorf("the trouble is told %d times: %q", n, stderr.String())
	}
	if !strings.Contains(stdout.String(), "   1             0 ") || !strings.Contains(stdout.String(), "   8             0 ") {
		t.Errorf("the blocks are:\n%s", stdout.String())
	}
}

// TestStatusWatchOfGateways is the same for the table of gateways.
func TestStatusWatchOfGateways(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server := statusServer()
	asked := 0
	server.gateway = func(pod string, _ []string) (string, string, int) {
		asked++
		text := readyStatus(pod)
		if asked > 5 {
			text = strings.Replace(text, `"ready"`, `"degraded"`, 1)
		}
		if asked == 10 {
			cancel()
		}
		return text, "", 0
	}
	var stdout, stderr bytes.Buffer
	streams := genericiooptions.IOStreams{In: strings.NewReader(""), Out: &stdout, ErrOut: &stderr}
	code := runOn(t, ctx, server, streams, "status", "web", "-w", "--interval=1ms")
	if code != 0 || strings.Count(stdout.String(), "POD ") != 2 || strings.Count(stdout.String(), "degraded") != 1 {
		t.Errorf("exit code %d:\n%s\n%s", code, stdout.String(), stderr.String())
	}
}
