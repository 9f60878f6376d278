package api

import (
	"slices"
	"strings"
	"testing"
)

func TestIdentityRules(t *testing.T) {
	for _, c := range []struct {
		patterns           string
		namespace, account string
		want               bool
	}{
		{"", "any", "one", true},
		{"ns/prod/sa/web", "prod", "web", true},
		{"ns/prod/sa/web", "prod", "web2", false},
		{"ns/prod/sa/web", "prod2", "web", false},
		{"ns/prod/sa/*", "prod", "anything.at-all", true},
		{"ns/prod/sa/*", "prod-eu", "web", false},
		{"ns/prod-*/sa/*", "prod-eu", "web", true},
		{"ns/*/sa/default", "x", "default", true},
		{"ns/*/sa/default", "x", "Default", false},
		{"ns/web-?/sa/*", "web-1", "a", true},
		{"ns/web-?/sa/*", "web-12", "a", false},
		{"ns/a/sa/b ns/c/sa/d", "c", "d", true},
		{"ns/a/sa/b ns/c/sa/d", "a", "d", false},
		// A wildcard does not reach from one part into the next.
		{"ns/*/sa/x", "a/sa/x", "y", false},
		{"ns/*/sa/x", "a/b", "x", false},
	} {
		rules, err := ParseAllow(strings.Fields(c.patterns))
		if err != nil {
			t.Errorf("%q: %v", c.patterns, err)
			continue
		}
		if got := rules.Allows(c.namespace, c.account); got != c.want {
			t.Errorf("rules %q, peer %s/%s: %v", c.patterns, c.namespace, c.account, got)
		}
	}
}

func TestBadIdentityRules(t *testing.T) {
	for _, pattern := range []string{
		"", "*", "prod/web", "ns/prod", "ns/prod/sa", "ns/prod/sa/", "ns//sa/x", "ns/prod/sa/web/x",
		"/ns/prod/sa/web", "sa/web/ns/prod", "ns/[a-z]/sa/x", `ns/pr\od/sa/x`, "ns/prod/sa/we b", "ns/PROD/sa/x",
		"spiffe://x/ns/prod/sa/web", "ns/" + strings.Repeat("a", 254) + "/sa/x", "ns/a/sa/\n",
	} {
		if _, err := ParseAllow([]string{"ns/a/sa/b", pattern}); err == nil || Hint(err) == "" || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %v, hint %q", pattern, err, Hint(err))
		}
	}
	if _, err := ParseAllow(slices.Repeat([]string{"ns/a/sa/b"}, maxAllow+1)); err == nil {
		t.Error("any number of rules is taken")
	}
}
