package api

import (
	"slices"
	"strings"
	"testing"
)

func TestIdentityRules(t *testing.T) {
	for _, c := range []struct {
		allow, deny        string
		namespace, account string
		port               uint16
		want               string // what is wrong, empty for allowed
	}{
		{"", "", "any", "one", 1, ""},
		{"ns/prod/sa/web", "", "prod", "web", 1, ""},
		{"ns/prod/sa/web", "", "prod", "web2", 1, "no identity rule allows port 1"},
		{"ns/prod/sa/web", "", "prod2", "web", 1, "no identity rule"},
		{"ns/prod/sa/*", "", "prod", "anything.at-all", 1, ""},
		{"ns/prod/sa/*", "", "prod-eu", "web", 1, "no identity rule"},
		{"ns/prod-*/sa/*", "", "prod-eu", "web", 1, ""},
		{"ns/*/sa/default", "", "x", "default", 1, ""},
		{"ns/*/sa/default", "", "x", "Default", 1, "no identity rule"},
		{"ns/web-?/sa/*", "", "web-1", "a", 1, ""},
		{"ns/web-?/sa/*", "", "web-12", "a", 1, "no identity rule"},
		{"ns/a/sa/b ns/c/sa/d", "", "c", "d", 1, ""},
		{"ns/a/sa/b ns/c/sa/d", "", "a", "d", 1, "no identity rule"},
		// A wildcard does not reach from one part into the next.
		{"ns/*/sa/x", "", "a/sa/x", "y", 1, "no identity rule"},
		{"ns/*/sa/x", "", "a/b", "x", 1, "no identity rule"},
		{"ns/prod/sa/web:8080,9000-9010", "", "prod", "web", 8080, ""},
		{"ns/prod/sa/web:8080,9000-9010", "", "prod", "web", 9005, ""},
		{"ns/prod/sa/web:8080,9000-9010", "", "prod", "web", 8081, "no identity rule allows port 8081"},
		{"ns/prod/sa/web:8080 ns/prod/sa/*:22", "", "prod", "web", 22, ""},
		// What is denied is denied, whoever is allowed.
		{"", "ns/prod/sa/web", "prod", "web", 1, "identity rule ns/prod/sa/web denies port 1"},
		{"", "ns/prod/sa/web", "prod", "api", 1, ""},
		{"ns/prod/sa/web", "ns/*/sa/*", "prod", "web", 1, "denies"},
		{"ns/prod/sa/*", "ns/*/sa/*:9000-9010", "prod", "web", 9000, "identity rule ns/*/sa/*:9000-9010 denies port 9000"},
		{"ns/prod/sa/*", "ns/*/sa/*:9000-9010", "prod", "web", 8999, ""},
	} {
		policy, err := Rules{Allow: strings.Fields(c.allow), Deny: strings.Fields(c.deny)}.Parse()
		if err != nil {
			t.Errorf("%q, %q: %v", c.allow, c.deny, err)
			continue
		}
		got := policy.Check(c.namespace, c.account, c.port)
		if (got == nil) != (c.want == "") || got != nil && !strings.Contains(got.Error(), c.want) {
			t.Errorf("allow %q, deny %q, peer %s/%s, port %d: %v", c.allow, c.deny, c.namespace, c.account, c.port, got)
		}
		if policy.Empty() != (c.allow+c.deny == "") {
			t.Errorf("allow %q, deny %q: empty %t", c.allow, c.deny, policy.Empty())
		}
	}
}

func TestBadIdentityRules(t *testing.T) {
	for _, pattern := range []string{
		"", "*", "prod/web", "ns/prod", "ns/prod/sa", "ns/prod/sa/", "ns//sa/x", "ns/prod/sa/web/x",
		"/ns/prod/sa/web", "sa/web/ns/prod", "ns/[a-z]/sa/x", `ns/pr\od/sa/x`, "ns/prod/sa/we b", "ns/PROD/sa/x",
		"spiffe://x/ns/prod/sa/web", "ns/" + strings.Repeat("a", 254) + "/sa/x", "ns/a/sa/\n",
		"ns/a/sa/b:", "ns/a/sa/b:x", "ns/a/sa/b:0", "ns/a/sa/b:65536", "ns/a/sa/b:2-1", "ns/a/sa/b:1,", "ns/a/sa/b:1:2", "ns/a:1/sa/b", "ns/a/sa/b:\n",
	} {
		for _, rules := range []Rules{{Allow: []string{"ns/a/sa/b", pattern}}, {Deny: []string{pattern}}} {
			if _, err := rules.Parse(); err == nil || Hint(err) == "" || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: error %v, hint %q", pattern, err, Hint(err))
			}
		}
	}
	half := slices.Repeat([]string{"ns/a/sa/b"}, maxRules/2)
	if _, err := (Rules{Allow: half, Deny: append(half, "ns/a/sa/b")}).Parse(); err == nil {
		t.Error("any number of rules is taken")
	}
	if _, err := (Rules{MaxPerPeer: -1}).Parse(); err == nil {
		t.Error("a negative bound is taken")
	}
}

func TestRulesAsACommand(t *testing.T) {
	for want, r := range map[string]Rules{
		"--everyone":         {},
		"--everyone --audit": {Audit: true},
		"'ns/a/sa/*' 'ns/b/sa/c:1-2' --deny='ns/a/sa/x' --audit --max-connections-per-peer=7": {Allow: []string{"ns/a/sa/*", "ns/b/sa/c:1-2"}, Deny: []string{"ns/a/sa/x"}, Audit: true, MaxPerPeer: 7},
	} {
		if got := r.Arguments(); got != want {
			t.Errorf("%+v is %s, want %s", r, got, want)
		}
	}
}

// FuzzParseRule: a rule that is understood is written as a text that means the same, with which
// a shell can do nothing but pass it on.
func FuzzParseRule(f *testing.F) {
	for _, seed := range []string{"ns/prod/sa/*", "ns/a?/sa/b:8080,9000-9010", "ns/a/sa/b:1-65535", "ns/a/sa/b:", "ns/a/sa/b:2,1,1", "ns//sa/:1"} {
		f.Add(seed, uint16(8080))
	}
	f.Fuzz(func(t *testing.T, text string, port uint16) {
		rule, err := ParseRule(text)
		if err != nil {
			if Hint(err) == "" {
				t.Errorf("%q: no hint with %v", text, err)
			}
			return
		}
		if strings.ContainsAny(rule.String(), "'\n") {
			t.Errorf("%q is written as %q", text, rule)
		}
		again, err := ParseRule(rule.String())
		if err != nil || again.String() != rule.String() || again.Matches("a", "b", port) != rule.Matches("a", "b", port) {
			t.Errorf("%q is written as %q, which is %q, %v", text, rule, again, err)
		}
	})
}
