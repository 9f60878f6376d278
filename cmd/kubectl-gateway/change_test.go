package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
)

// gatewayContainers answers as gateways do, each pod's in its way, and keeps what
// it was asked.
type gatewayContainers struct {
	mu       sync.Mutex
	commands map[string]string
}

func (g *gatewayContainers) run(pod string, command []string) (stdout, stderr string, code int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.commands == nil {
		g.commands = map[string]string{}
	}
	status := map[string]any{"state": "ready", "pod": map[string]string{"uid": "uid-" + pod}, "mode": "permissive", "onFailure": "closed"}
	words := command[3:slices.Index(command, "-o")]
	if command[2] != "status" {
		g.commands[pod] = strings.Join(command, " ")
	}
	switch command[2] {
	case "mode":
		status["mode"] = words[0]
	case "log":
		limit := 32 << 20
		if len(words) > 1 {
			fmt.Sscanf(words[1], "--limit=%d", &limit)
		}
		status["log"] = map[string]any{"level": words[0], "limit": limit}
	case "status":
		status["deny"], status["audit"] = []string{"ns/dev/sa/*"}, true
	case "edges":
		peers := map[string][]string{"web": {"ns/shop/sa/web", "ns/ops/sa/backup"}, "liar": {"ns/a'b/sa/c"}}[pod]
		edges := []map[string]any{}
		for i, peer := range peers {
			edges = append(edges, map[string]any{"direction": "inbound", "source": "10.0.0.9", "destination": fmt.Sprintf("10.0.1.7:%d", 80+i),
				"peer": "spiffe://td/" + peer, "wire": "port", "verdict": "encrypted", "connections": 1})
		}
		status["edges"], status["since"] = edges, "2030-01-02T03:04:05Z"
	default:
		var allow, deny []string
		for _, word := range words {
			if pattern, ok := strings.CutPrefix(word, "--deny="); ok {
				deny = append(deny, pattern)
			} else if !strings.HasPrefix(word, "--") {
				allow = append(allow, word)
			}
		}
		status["allow"], status["deny"], status["audit"] = allow, deny, slices.Contains(words, "--audit")
		if slices.Contains(words, "--max-connections-per-peer=9") {
			status["maxConnectionsPerPeer"] = 9
		}
	}
	if slices.Contains(words, "--existing=reset") {
		status["reset"] = 3
	}
	switch pod {
	case "open":
		status["onFailure"] = "open"
	case "away":
		status["state"] = "degraded\x1b[2J"
	case "imposter":
		status["pod"] = map[string]string{"uid": "uid-other"}
	case "liar":
		status["mode"], status["allow"] = "lenient\x1b[2J", []string{"ns/x/sa/y"}
	case "lacking":
		return "", "error: strict mode is not possible here: the kernel has no \x1b[2Jhelper\nhint: see 'missing'\n", 1
	case "old":
		return "", "error: unknown control command [\"mode\"]\nhint: use 'kube-gateway ctl status'\n", 1
	case "broken":
		return "", "panic: no words\n", 2
	}
	text, err := json.Marshal(status)
	if err != nil {
		return "", err.Error(), 3
	}
	return string(text), "", 0
}

func changeServer(g *gatewayContainers) *apiServer {
	s := &apiServer{gateway: g.run, objects: map[string]string{}, pods: []corev1.Pod{
		podWithGateway("demo", "died", gatewayDied()),
		podWithGateway("demo", "bystander", nil),
	}}
	for _, name := range []string{"web", "scraped", "open", "away", "imposter", "liar", "lacking", "old", "broken"} {
		s.pods = append(s.pods, podWithGateway("demo", name, gatewayRuns()))
	}
	s.pods[3].Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9090"}
	return s
}

// TestChanges compares everything that is printed, for pods of every kind.
func TestChanges(t *testing.T) {
	all := []string{"web", "pod/open", "pods/away", "imposter", "liar", "lacking", "old", "broken", "died", "bystander", "gone"}
	for name, args := range map[string][]string{
		"mode.txt":        append(append([]string{"mode"}, all...), "strict"),
		"mode-json.txt":   append(append([]string{"mode"}, all...), "strict", "-o", "json"),
		"mode-name.txt":   append(append([]string{"mode", "-o=name"}, all...), "permissive"),
		"mode-all.txt":    {"mode", "--all", "--yes", "strict"},
		"allow.txt":       append(append([]string{"allow"}, all[:5]...), "ns/prod/sa/*", "ns/ops/sa/backup"),
		"allow-json.txt":  append(append([]string{"allow", "ns/prod/sa/*"}, all[:5]...), "-o", "json"),
		"allow-every.txt": {"allow", "web", "--everyone"},
		"allow-deny.txt":  {"allow", "web", "ns/prod/sa/web:8080,9000-9010", "--deny=ns/prod/sa/web:9001", "--deny", "ns/dev/sa/*", "--audit", "--existing=reset"},
		"from-edges.txt":  append([]string{"allow", "--from-edges"}, all...),
		"from-edges.json": {"allow", "web", "away", "imposter", "--from-edges", "-o", "json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var g gatewayContainers
			// One at a time, for the order of the lines.
			code, stdout, stderr := changeServer(&g).start(t)(append(args, "--parallel=1")...)
			golden.Check(t, name, fmt.Sprintf("exit code %d\n--- stdout\n%s--- stderr\n%s", code, stdout, stderr))
			if strings.Contains(stdout+stderr, "\x1b") {
				t.Errorf("something harmful is left in %q", stdout+stderr)
			}
		})
	}
}

func TestCommandsOfChanges(t *testing.T) {
	for want, args := range map[string][]string{
		"/kube-gateway ctl mode strict -o json":                           {"mode", "web", "strict"},
		"/kube-gateway ctl mode permissive -o json":                       {"mode", "pod/web", "permissive", "-o", "yaml"},
		"/kube-gateway ctl log refused -o json":                           {"log", "web", "refused"},
		"/kube-gateway ctl log none --limit=67108864 -o json":             {"log", "pod/web", "none", "--limit=64Mi"},
		"/kube-gateway ctl allow --everyone -o json":                      {"allow", "--everyone", "web"},
		"/kube-gateway ctl allow ns/prod/sa/* ns/ops/sa/backup-? -o json": {"allow", "web", "ns/prod/sa/*", "ns/ops/sa/backup-?"},

		"/kube-gateway ctl allow --everyone --deny=ns/a/sa/b:80 --audit --max-connections-per-peer=9 --existing=reset -o json": {"allow", "web", "--everyone", "--deny=ns/a/sa/b:80", "--audit", "--max-connections-per-peer=9", "--existing=reset"},
		"/kube-gateway ctl mode strict --existing=reset -o json":                                                               {"mode", "web", "strict", "--existing=reset"},
		"/kube-gateway ctl allow ns/prod/sa/web ns/prod/sa/web.api -o json ":                                                   {"allow", "ns/prod/sa/web", "web", "ns/prod/sa/web.api"},
	} {
		var g gatewayContainers
		code, _, stderr := changeServer(&g).start(t)(args...)
		if code != 0 || g.commands["web"] != strings.TrimSpace(want) || len(g.commands) != 1 {
			t.Errorf("%q: exit code %d, %q, %s", args, code, g.commands, stderr)
		}
	}
}

func TestChangesThatMakeNoSense(t *testing.T) {
	var g gatewayContainers
	fails(t, changeServer(&g).start(t), 1, map[string]string{
		"log": "not said what to log", "log web": `"web" is not what a gateway can log`, "log none": "no pod is named", "log web none --limit=1": "less than 1Mi",
		"mode": "no mode", "mode web": `"web" is not a mode`, "mode strict": "no pod is named", "mode strict web": `"web" is not a mode`,
		"mode --all web strict": "--all", "mode web strict -o wide": "unable to match a printer", "mode web strict --timeout=0s": "not positive",
		"mode web strict --parallel=0": "not positive", "mode deploy/web/x strict": "does not name one object",
		"allow": "no pattern", "allow web": "no pattern", "allow ns/a/sa/b": "no pod is named", "allow web ns/a": "not of the form",
		"allow web *": "not of the form", "allow web spiffe://td/ns/a/sa/b": "not of the form", "allow web ns/a/sa/b --everyone": "both given",
		"allow web --deny=ns/a/sa/b": "no pattern", "allow web --everyone --deny=ns/a": "not of the form", "allow web ns/a/sa/b:0": "neither a port nor a range of ports",
		"allow web --from-edges --audit": "takes no rules", "allow web ns/a/sa/b --from-edges": "takes no rules", "mode web strict --existing=report": "unknown",
	})
	if len(g.commands) != 0 {
		t.Errorf("gateways were asked: %q", g.commands)
	}
}
