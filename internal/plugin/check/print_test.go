package check

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/muesli/termenv"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// example has one of everything, and words that would harm a terminal.
func example(t *testing.T) *Report {
	t.Helper()
	command := must.Get(grant("kubectl-gateway", bundles()["kubectl-gateway"], "shop", "system:serviceaccount:ops:bot"))(t)
	return newReport([]string{"shop"}, [][]Item{
		{{ID: "client-version", Category: Client, Description: "the plugin has a version", Result: OK, Detail: "v1.0.0, linux/amd64"}},
		{{ID: "permissions-enable", Category: Permissions, Description: "you may enable gateways", Result: Error, Objects: []string{"namespace/shop"},
			Detail: "you may not: patch pods/ephemeralcontainers", Hint: "whoever may grant it runs this", Command: command}},
		{{ID: "permissions-disable", Category: Permissions, Description: "you may disable gateways", Result: Error, Objects: []string{"namespace/shop"},
			Detail: "you may not: patch pods/ephemeralcontainers", Hint: "whoever may grant it runs this", Command: command}},
		{{ID: "policy-pod-security", Category: Policy, Description: "Pod Security admits the gateway", Result: Error, Objects: []string{"namespace/shop"},
			Detail: "it enforces the level restricted, and a gateway is a privileged container", Command: labelCommand("shop")}},
		{{ID: "nodes-cgroup", Category: Nodes, Description: "the nodes use cgroup v2", Result: Skipped, Objects: []string{"node/a"}, Detail: "kubelet v1.30.0 does not tell"}},
		{{ID: "nodes-pods", Category: Nodes, Description: "the pods can have gateways", Result: OK}},
		{{ID: "ranges-found", Category: Ranges, Description: "the ranges of pods and Services are known", Result: Warning, Detail: "guessed: größer\x1b[2J"}},
		{
			{ID: "peers-plaintext", Category: Peers, Description: "no connections go in plaintext", Result: Warning, Detail: "3 connections out went in plaintext",
				Objects: []string{"pod/a -n shop", "pod/b -n shop", "pod/c -n shop", "pod/d -n shop"}, Hint: "see which"},
		},
	})
}

func TestPrint(t *testing.T) {
	for _, c := range []struct {
		file     string
		terminal bool
		profile  termenv.Profile
		options  PrintOptions
	}{
		{"check-plain.golden", false, termenv.Ascii, PrintOptions{}},
		{"check-terminal.golden", true, termenv.ANSI, PrintOptions{}},
		{"check-short.golden", false, termenv.Ascii, PrintOptions{Short: true}},
		{"check-ascii.golden", false, termenv.Ascii, PrintOptions{ASCII: true}},
	} {
		var out bytes.Buffer
		must.Do(t, example(t).Print(&out, terminal.New(&out, c.terminal, c.profile), c.options))
		golden.Check(t, c.file, out.String())
	}
	text := must.Get(json.MarshalIndent(example(t), "", "  "))(t)
	golden.Check(t, "check-json.golden", string(text)+"\n")
}

func TestPrintNothingWrong(t *testing.T) {
	var out bytes.Buffer
	report := newReport([]string{"shop"}, [][]Item{{{Category: Client, Result: OK}}, {{Category: Peers, Result: Skipped}}})
	must.Do(t, report.Print(&out, terminal.New(&out, false, termenv.Ascii), PrintOptions{Short: true}))
	if got := out.String(); got != "√ no problems, 1 ok, 1 skipped\n" {
		t.Errorf("%q", got)
	}
}

func TestASCII(t *testing.T) {
	for _, c := range []struct {
		goos string
		env  map[string]string
		want bool
	}{
		{"linux", nil, true},
		{"linux", map[string]string{"LANG": "C"}, true},
		{"linux", map[string]string{"LANG": "de_DE.UTF-8"}, false},
		{"linux", map[string]string{"LANG": "C", "LC_CTYPE": "C.utf8"}, false},
		{"linux", map[string]string{"LANG": "de_DE.UTF-8", "LC_ALL": "POSIX"}, true},
		{"windows", nil, true},
		{"windows", map[string]string{"WT_SESSION": "1"}, false},
	} {
		if got := ascii(c.goos, func(key string) string { return c.env[key] }); got != c.want {
			t.Errorf("%s %v: %v", c.goos, c.env, got)
		}
	}
}
