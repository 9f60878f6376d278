package api

import (
	"fmt"
	"path"
	"strings"
)

// maxAllow bounds the identity rules of one gateway: one environment variable holds all
// of them, and each connection is compared with one after the other.
const maxAllow = 1000

// Rules are identity rules: patterns of the peers that may connect to a pod. Nil allows
// every peer of the trust domain. They are safe for concurrent use.
type Rules []rule

// rule holds the patterns of one namespace and one service account.
type rule struct{ namespace, account string }

// ParseAllow parses identity rules. Each has the form ns/NAMESPACE/sa/ACCOUNT, the path of
// the peer's SPIFFE ID, where * in a name stands for any number of characters and ? for
// one. Names consist of the characters that Kubernetes allows: a-z, 0-9, dash and dot.
func ParseAllow(patterns []string) (Rules, error) {
	if len(patterns) > maxAllow {
		return nil, fmt.Errorf("%d identity rules are more than %d", len(patterns), maxAllow)
	}
	var rules Rules
	for _, pattern := range patterns {
		parts := strings.Split(pattern, "/")
		if len(parts) != 4 || parts[0] != "ns" || parts[2] != "sa" || !isGlob(parts[1]) || !isGlob(parts[3]) {
			return nil, WithHint(fmt.Errorf("identity rule %.300q is not of the form ns/NAMESPACE/sa/ACCOUNT", pattern),
				"write it like 'ns/prod/sa/*', in quotes because of the shell")
		}
		rules = append(rules, rule{namespace: parts[1], account: parts[3]})
	}
	return rules, nil
}

// isGlob reports whether text is a name of Kubernetes, at most 253 characters
// long (RFC 1123), in which wildcards may stand.
func isGlob(text string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789-.*?"
	return text != "" && len(text) <= 253 && strings.Trim(text, allowed) == ""
}

// Allows reports whether the peer of that namespace and service account may
// connect. Both must come from a verified certificate of the trust domain.
func (r Rules) Allows(namespace, account string) bool {
	if len(r) == 0 {
		return true
	}
	for _, rule := range r {
		if matches(rule.namespace, namespace) && matches(rule.account, account) {
			return true
		}
	}
	return false
}

func matches(pattern, name string) bool {
	// Match fails only for malformed patterns, which isGlob refuses.
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}
