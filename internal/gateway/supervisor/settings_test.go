//go:build linux

package supervisor

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
)

func TestTransitions(t *testing.T) {
	no := errors.New("no")
	for _, c := range []struct {
		from, to api.Mode
		fails    string
		steps    string
	}{
		{api.Permissive, api.Strict, "", "update strict"},
		{api.Strict, api.Permissive, "", "permissive update"},
		{api.Strict, api.Strict, "", "update"},
		{api.Permissive, api.Strict, "update", "update"},
		{api.Permissive, api.Strict, "strict", "update strict revert"},
		{api.Permissive, api.Strict, "strict untell", "update strict revert"},
		{api.Strict, api.Permissive, "permissive", "permissive"},
		{api.Strict, api.Permissive, "update", "permissive update strict"},
		{api.Permissive, api.Permissive, "update", "update"},
	} {
		var steps []string
		step := func(name string) error {
			steps = append(steps, name)
			if slices.Contains(strings.Fields(c.fails), name) {
				return no
			}
			return nil
		}
		err := transition{from: c.from, to: c.to,
			update: func() error { return step("update") }, revert: func() error { return step("revert") },
			enforce: func(m api.Mode) error { return step(string(m)) },
		}.run()
		if got := strings.Join(steps, " "); got != c.steps || errors.Is(err, no) != (c.fails != "") {
			t.Errorf("%s to %s, failing %q: %s, %v; want %s", c.from, c.to, c.fails, got, err, c.steps)
		}
	}
}

func TestEdit(t *testing.T) {
	config, err := api.ParseConfig([]byte(`{"version":1,"pod":{"namespace":"a","name":"b","uid":"c"},"podIPs":["10.0.0.1"],
		"trustDomain":"td","mode":"strict","onFailure":"closed","ranges":["10.0.0.0/8"],"allow":["ns/a/sa/b"]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		request control.Request
		mode    api.Mode
		allow   string
		fails   bool
	}{
		"mode":      {request: control.Request{Op: control.OpMode, Mode: api.Permissive}, mode: api.Permissive, allow: "'ns/a/sa/b'"},
		"no mode":   {request: control.Request{Op: control.OpMode}, fails: true},
		"rules":     {request: control.Request{Op: control.OpAllow, Rules: api.Rules{Allow: []string{"ns/x/sa/*"}}}, mode: api.Strict, allow: "'ns/x/sa/*'"},
		"deny":      {request: control.Request{Op: control.OpAllow, Rules: api.Rules{Deny: []string{"ns/x/sa/*:80"}, Audit: true}, Everyone: true}, mode: api.Strict, allow: "--everyone --deny='ns/x/sa/*:80' --audit"},
		"everyone":  {request: control.Request{Op: control.OpAllow, Everyone: true}, mode: api.Strict, allow: "--everyone"},
		"nobody":    {request: control.Request{Op: control.OpAllow}, fails: true},
		"both":      {request: control.Request{Op: control.OpAllow, Rules: api.Rules{Allow: []string{"ns/x/sa/*"}}, Everyone: true}, fails: true},
		"no rule":   {request: control.Request{Op: control.OpAllow, Rules: api.Rules{Allow: []string{"*"}}}, fails: true},
		"empty one": {request: control.Request{Op: control.OpAllow, Rules: api.Rules{Allow: []string{""}}}, fails: true},
	} {
		next := *config
		err := edit(&next, c.request)
		if (err != nil) != c.fails {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (next.Mode != c.mode || next.Rules.Arguments() != c.allow || next.OnFailure != api.FailClosed) {
			t.Errorf("%s: %+v", name, next)
		}
		if config.Mode != api.Strict || config.Allow[0] != "ns/a/sa/b" {
			t.Fatalf("%s changed the settings in force", name)
		}
	}
}
