package api

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// maxRules bounds the identity rules of one gateway, which each connection is compared with one after the other, and
// maxRulesSize their texts in bytes: one environment variable holds all of them (MaxConfig).
const (
	maxRules     = 1000
	maxRulesSize = 64 << 10
)

// Rules say which peers may connect to which ports of a pod. The zero value allows every
// peer of the trust domain every port.
type Rules struct {
	// Allow and Deny hold identity rules, see ParseRule. A peer may connect if a rule of Allow
	// matches and none of Deny. An empty Allow matches everyone.
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
	// Audit lets in, logs and counts those whom the rules would refuse.
	Audit bool `json:"audit,omitempty"`
	// MaxPerPeer bounds the connections of one identity that are open at a time, whatever Audit
	// says. 0 means no bound.
	MaxPerPeer int `json:"maxConnectionsPerPeer,omitempty"`
}

// Equal reports whether r and other are written alike.
func (r Rules) Equal(other Rules) bool {
	return slices.Equal(r.Allow, other.Allow) && slices.Equal(r.Deny, other.Deny) && r.Audit == other.Audit && r.MaxPerPeer == other.MaxPerPeer
}

// Words returns the rules as arguments of the command allow, the plugin's and the gateway's.
func (r Rules) Words() []string {
	words := []string{"--everyone"}
	if len(r.Allow) > 0 {
		words = slices.Clone(r.Allow)
	}
	for _, pattern := range r.Deny {
		words = append(words, "--deny="+pattern)
	}
	if r.Audit {
		words = append(words, "--audit")
	}
	if r.MaxPerPeer > 0 {
		words = append(words, fmt.Sprintf("--max-connections-per-peer=%d", r.MaxPerPeer))
	}
	return words
}

// Arguments is Words for a shell, because of which patterns are in quotes.
func (r Rules) Arguments() string {
	words := r.Words()
	for i, word := range words {
		if flag, pattern, found := strings.Cut(word, "ns/"); found {
			words[i] = flag + "'ns/" + pattern + "'"
		}
	}
	return strings.Join(words, " ")
}

// Parse parses the rules of r.
func (r Rules) Parse() (*Policy, error) {
	if n := len(r.Allow) + len(r.Deny); n > maxRules {
		return nil, fmt.Errorf("%d identity rules are more than %d", n, maxRules)
	}
	if n := len(strings.Join(r.Allow, "")) + len(strings.Join(r.Deny, "")); n > maxRulesSize {
		return nil, fmt.Errorf("identity rules of %d bytes are more than %d", n, maxRulesSize)
	}
	if r.MaxPerPeer < 0 {
		return nil, fmt.Errorf("%d connections for each peer are not a bound", r.MaxPerPeer)
	}
	p := Policy{Audit: r.Audit, MaxPerPeer: r.MaxPerPeer}
	for _, list := range []struct {
		texts []string
		rules *[]Rule
	}{{r.Allow, &p.allow}, {r.Deny, &p.deny}} {
		for _, text := range list.texts {
			rule, err := ParseRule(text)
			if err != nil {
				return nil, err
			}
			*list.rules = append(*list.rules, rule)
		}
	}
	return &p, nil
}

// Policy is parsed Rules. It is safe for concurrent use.
type Policy struct {
	allow, deny []Rule
	// Audit and MaxPerPeer are those of Rules.
	Audit      bool
	MaxPerPeer int
}

// Empty reports whether p allows everyone everything.
func (p *Policy) Empty() bool { return len(p.allow)+len(p.deny) == 0 }

// Check returns why the peer of that namespace and service account may not connect to port,
// regardless of Audit, or nil if it may. Both names must come from a verified certificate of
// the trust domain.
func (p *Policy) Check(namespace, account string, port uint16) error {
	matches := func(rule Rule) bool { return rule.Matches(namespace, account, port) }
	if i := slices.IndexFunc(p.deny, matches); i >= 0 {
		return fmt.Errorf("identity rule %v denies port %d", p.deny[i], port)
	}
	if len(p.allow) > 0 && !slices.ContainsFunc(p.allow, matches) {
		return fmt.Errorf("no identity rule allows port %d", port)
	}
	return nil
}

// Rule matches peers by namespace and service account, and the ports that they connect to.
type Rule struct {
	namespace, account string
	ports              Ports
}

// ParseRule parses an identity rule. It has the form ns/NAMESPACE/sa/ACCOUNT, the path of the
// peer's SPIFFE ID, where * in a name stands for any number of characters and ? for one. Names
// consist of the characters that Kubernetes allows: a-z, 0-9, dash and dot. Ports may follow
// behind a colon, as for ParsePorts; without, the rule matches every port. They are those of
// the application in the pod.
func ParseRule(text string) (Rule, error) {
	peer, portsText, some := strings.Cut(text, ":")
	parts := strings.Split(peer, "/")
	if len(parts) != 4 || parts[0] != "ns" || parts[2] != "sa" || !isGlob(parts[1]) || !isGlob(parts[3]) {
		return Rule{}, WithHint(fmt.Errorf("identity rule %.300q is not of the form ns/NAMESPACE/sa/ACCOUNT[:PORTS]", text),
			"write it like 'ns/prod/sa/*' or 'ns/prod/sa/web:8080,9000-9010', in quotes because of the shell")
	}
	rule := Rule{namespace: parts[1], account: parts[3]}
	if some {
		ports, err := ParsePorts(portsText)
		if err != nil {
			return Rule{}, fmt.Errorf("identity rule %.300q: %w", text, err)
		}
		rule.ports = ports
	}
	return rule, nil
}

// NewRule returns the rule for one peer and ports.
func NewRule(namespace, account string, ports Ports) Rule { return Rule{namespace, account, ports} }

// Matches reports whether the rule is about the peer of that namespace and service account, and
// about port.
func (r Rule) Matches(namespace, account string, port uint16) bool {
	return matches(r.namespace, namespace) && matches(r.account, account) && r.ports.Contains(port)
}

// String returns the text that ParseRule parses.
func (r Rule) String() string {
	text := "ns/" + r.namespace + "/sa/" + r.account
	if len(r.ports) > 0 {
		text += ":" + r.ports.String()
	}
	return text
}

// isGlob reports whether text is a name of Kubernetes, at most 253 characters
// long (RFC 1123), in which wildcards may stand.
func isGlob(text string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789-.*?"
	return text != "" && len(text) <= 253 && strings.Trim(text, allowed) == ""
}

func matches(pattern, name string) bool {
	// Match fails only for malformed patterns, which isGlob refuses.
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}
