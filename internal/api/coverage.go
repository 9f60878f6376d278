package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Coverage is what a gateway captures and whose plaintext it accepts. It follows from the
// cluster, and can change while the gateway runs.
//
// The longest prefix that contains a destination decides, an address with a port before all
// prefixes. Exclude wins over Capture, and Capture over Services, where they name the
// very same range; what lies within Exclude is neither a node nor an endpoint.
type Coverage struct {
	// Capture holds the ranges of pod addresses, Services those of Service VIPs.
	Capture  []netip.Prefix `json:"ranges,omitempty"`
	Services []netip.Prefix `json:"services,omitempty"`
	// Exclude holds ranges that are never captured.
	Exclude []netip.Prefix `json:"exclude,omitempty"`
	// ExcludePorts holds destination ports that are never captured.
	ExcludePorts []uint16 `json:"excludePorts,omitempty"`
	// Nodes holds addresses of nodes. Their ports within NodePorts are captured like
	// Service VIPs, their other ports never.
	Nodes []netip.Addr `json:"nodes,omitempty"`
	// NodePorts are the first and the last port that Services may have on every node.
	// Zero means none.
	NodePorts [2]uint16 `json:"nodePorts,omitzero"`
	// Endpoints holds what else leads to a pod, and is captured like Service VIPs: external
	// and load-balancer addresses of Services, and host ports of pods.
	Endpoints []netip.AddrPort `json:"endpoints,omitempty"`
	// Pass holds what is never captured although it lies in a range: the API server, and the
	// cluster's DNS over TCP.
	Pass []netip.AddrPort `json:"pass,omitempty"`
	// PlaintextFrom holds the sources whose plaintext connections strict mode accepts: the
	// pod's own node, whose kubelet probes it, and those that the user allows.
	PlaintextFrom []Source `json:"plaintextFrom,omitempty"`
	// Probes are the ports that the pod's node may reach from its side of the pod's network,
	// whose addresses the gateway finds itself. Empty, unlike elsewhere, means none.
	Probes Ports `json:"probes,omitempty"`
	// Outside decides about connections into private address space that no range names.
	// Empty means OutsideCount.
	Outside Outside `json:"outside,omitempty"`
}

// Cover is a new coverage for a gateway that runs.
type Cover struct {
	Coverage Coverage `json:"coverage"`
	// Named holds what the user named of it.
	Named Coverage `json:"named,omitzero"`
	// Seen is the fingerprint of the Named that the gateway had when this was made. If it has
	// another one by now, it stays as it is.
	Seen string `json:"seen"`
}

// Outside decides about connections into private address space that no range names.
type Outside string

const (
	// OutsideCount lets them pass in plaintext, and counts them by network.
	OutsideCount Outside = "count"
	// OutsideRefuse refuses them in strict mode (EPERM), and counts them.
	OutsideRefuse Outside = "refuse"
)

// MaxCoverage bounds the ranges, nodes and endpoints of a coverage, and MaxSources its
// sources: the eBPF maps hold no more.
const (
	MaxCoverage = 60000
	MaxSources  = 16000
)

// MaxPortRanges bounds the ranges of ports of all sources that contain one address.
const MaxPortRanges = 32

// Accepts reports whether strict mode accepts plaintext of ip to a port of the pod.
func (c *Coverage) Accepts(ip netip.Addr, port uint16) bool {
	return slices.ContainsFunc(c.PlaintextFrom, func(s Source) bool { return s.From.Contains(ip.Unmap()) && s.Ports.Contains(port) })
}

// IsZero reports whether c says nothing.
func (c Coverage) IsZero() bool {
	return len(c.Capture)+len(c.Services)+len(c.Exclude)+len(c.ExcludePorts)+len(c.Nodes)+len(c.Endpoints)+len(c.Pass)+len(c.PlaintextFrom)+len(c.Probes) == 0 &&
		c.NodePorts == [2]uint16{} && c.Outside == ""
}

// Fingerprint tells one coverage from another: 24 hexadecimal digits, which depend on
// the order of lists.
func (c Coverage) Fingerprint() string {
	text, err := json.Marshal(c)
	if err != nil {
		return "" // an address or a range that is not valid
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:12])
}

// Validate returns the first error in c.
func (c *Coverage) Validate() error {
	switch n := len(c.Capture) + len(c.Services) + len(c.Exclude) + len(c.Nodes) + len(c.Endpoints) + len(c.Pass); {
	case len(c.Capture) == 0 && len(c.Services) == 0:
		return errors.New("no range is to be captured")
	case n > MaxCoverage:
		return fmt.Errorf("%d ranges and addresses are more than %d", n, MaxCoverage)
	case len(c.PlaintextFrom) > MaxSources:
		return fmt.Errorf("%d sources of plaintext are more than %d", len(c.PlaintextFrom), MaxSources)
	case c.NodePorts != [2]uint16{} && (c.NodePorts[0] == 0 || c.NodePorts[0] > c.NodePorts[1]):
		return fmt.Errorf("node ports %d to %d are not a range of ports", c.NodePorts[0], c.NodePorts[1])
	case !slices.Contains([]Outside{"", OutsideCount, OutsideRefuse}, c.Outside):
		return fmt.Errorf("outside %q is neither %q nor %q", c.Outside, OutsideCount, OutsideRefuse)
	}
	for _, ip := range c.Nodes {
		if err := usable("node", ip); err != nil {
			return err
		}
	}
	for _, list := range [][]netip.AddrPort{c.Endpoints, c.Pass} {
		for _, endpoint := range list {
			if err := usable("endpoint", endpoint.Addr()); err != nil || endpoint.Port() == 0 {
				return fmt.Errorf("endpoint %v cannot be used", endpoint)
			}
		}
	}
	for _, ranges := range [][]netip.Prefix{c.Capture, c.Services, c.Exclude} {
		for _, r := range ranges {
			if !r.IsValid() || r.Addr().Is4In6() {
				return fmt.Errorf("range %v cannot be used", r)
			}
		}
	}
	for _, s := range c.PlaintextFrom {
		if !s.From.IsValid() || s.From.Addr().Is4In6() || len(s.Ports) > MaxPortRanges {
			return fmt.Errorf("source %v cannot be used", s)
		}
	}
	return nil
}

// usable returns why ip cannot be the address of whose.
func usable(whose string, ip netip.Addr) error {
	if !ip.IsValid() || ip.IsLoopback() || ip.IsUnspecified() || ip.Is4In6() || ip.Zone() != "" {
		return fmt.Errorf("%s address %v cannot be used", whose, ip)
	}
	return nil
}

// Source is where plaintext may come from, and the ports of the pod that it may go to. Its
// text is a range, with ports behind a colon unless it is every port:
// 10.0.0.0/8:8080,9000-9010.
type Source struct {
	From  netip.Prefix
	Ports Ports
}

// ParseSource reads the text of a Source. A lone address stands for itself.
func ParseSource(text string) (Source, error) {
	invalid := WithHint(fmt.Errorf("%.80q is not an address range", text), "write it like 10.0.0.0/8, or 10.0.0.0/8:8080,9000-9010 for some ports")
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return Source{From: netip.PrefixFrom(ip, ip.BitLen())}, nil
	}
	// An IPv6 address has colons, too, but not behind the slash.
	address, bits, _ := strings.Cut(text, "/")
	bits, ports, some := strings.Cut(bits, ":")
	from, err := netip.ParsePrefix(address + "/" + bits)
	if err != nil || from.Addr().Is4In6() {
		return Source{}, invalid
	}
	s := Source{From: from.Masked()}
	if some {
		s.Ports, err = ParsePorts(ports)
	}
	return s, err
}

// SplitSources splits texts of sources with commas between them. What cannot begin a
// range continues the ports of the one before.
func SplitSources(text string) []string {
	var texts []string
	for word := range strings.SplitSeq(text, ",") {
		if n := len(texts); n > 0 && strings.Trim(word, "0123456789-") == "" && strings.Contains(texts[n-1], "/") {
			texts[n-1] += "," + word
		} else {
			texts = append(texts, word)
		}
	}
	return texts
}

func (s Source) String() string {
	if len(s.Ports) == 0 {
		return s.From.String()
	}
	return s.From.String() + ":" + s.Ports.String()
}

// MergeSources returns the same sources in the order of their ranges, each range once.
func MergeSources(sources []Source) []Source {
	sources = slices.Clone(sources)
	slices.SortStableFunc(sources, func(a, b Source) int { return a.From.Compare(b.From) })
	var merged []Source
	for _, s := range sources {
		n := len(merged)
		switch {
		case n == 0 || merged[n-1].From != s.From:
			merged = append(merged, s)
		case len(merged[n-1].Ports) == 0 || len(s.Ports) == 0:
			merged[n-1].Ports = nil
		default:
			merged[n-1].Ports = NewPorts(slices.Concat(merged[n-1].Ports, s.Ports)...)
		}
	}
	return merged
}

// MarshalText is String for JSON.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseSource for JSON.
func (s *Source) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSource(string(text))
	return err
}
