package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ConfigVersion is the version of Config's JSON form that this build speaks.
const ConfigVersion = 1

// Ports of a gateway. An application in the same pod cannot use them.
const (
	// CapturePort is where captured connections arrive, on loopback only.
	CapturePort = 18000
	// PeerPort is the TLS listener that other gateways dial (wire=port).
	PeerPort = 18443
	// InbandPort is where connections that were made in band arrive (wire=inband).
	// It listens on loopback; they are steered there from every port of the pod.
	InbandPort = 18444
)

// ALPN is the application protocol that both ends of wire=port must agree on.
const ALPN = "kube-gateway/1"

// WorkerID is the user and group ID of the worker process: the "nonroot" user
// that distroless images made customary.
const WorkerID = 65532

// Environment variables of the gateway's container. The three TLS variables
// come from the Secret, the configuration from the container's own spec.
const (
	EnvConfig = "KUBE_GATEWAY_CONFIG"
	EnvCert   = "KUBE_GATEWAY_TLS_CERT"
	EnvKey    = "KUBE_GATEWAY_TLS_KEY"
	EnvCA     = "KUBE_GATEWAY_CA"
)

// Mode says what a gateway does with a connection that cannot be encrypted.
type Mode string

const (
	// Permissive lets such a connection through in plaintext, and counts it.
	Permissive Mode = "permissive"
	// Strict refuses it.
	Strict Mode = "strict"
)

// Wire says how the gateways of two pods meet. The values are WireAuto, WirePort
// and WireInband; empty means WireAuto.
type Wire string

// OnFailure says what happens to captured connections once the gateway is gone.
type OnFailure string

const (
	// FailOpen removes the capture with the gateway: traffic flows in plaintext.
	FailOpen OnFailure = "open"
	// FailClosed keeps the capture: connect(2) fails with EPERM.
	FailClosed OnFailure = "closed"
)

// Existing says what happens at the start of a gateway to plaintext connections
// into captured ranges that were open before it.
type Existing string

const (
	// ExistingLeave leaves them alone, and does not look for them.
	ExistingLeave Existing = "leave"
	// ExistingReport counts and lists them in the gateway's status.
	ExistingReport Existing = "report"
	// ExistingReset resets them, so that what keeps connections open makes new
	// ones, which are encrypted.
	ExistingReset Existing = "reset"
)

// PodRef names the pod that a gateway serves.
type PodRef struct {
	Namespace      string `json:"namespace"`
	Name           string `json:"name"`
	UID            string `json:"uid"`
	ServiceAccount string `json:"serviceAccount"`
	Node           string `json:"node,omitempty"`
}

// Config is everything that the plugin gives to a gateway, except its credentials.
type Config struct {
	Version int    `json:"version"`
	Pod     PodRef `json:"pod"`
	// PodIPs are the addresses of the pod: the only ones that a gateway dials
	// on behalf of a peer.
	PodIPs      []netip.Addr `json:"podIPs"`
	TrustDomain string       `json:"trustDomain"`
	Mode        Mode         `json:"mode"`
	OnFailure   OnFailure    `json:"onFailure"`
	// Capture holds the ranges of pod addresses, Services those of Service
	// VIPs. The longest prefix that contains a destination decides.
	Capture  []netip.Prefix `json:"capture"`
	Services []netip.Prefix `json:"services,omitempty"`
	// Exclude holds ranges that are never captured.
	Exclude []netip.Prefix `json:"exclude,omitempty"`
	// ExcludePorts holds destination ports that are never captured.
	ExcludePorts []uint16 `json:"excludePorts,omitempty"`
	// Wire is how connections travel to the peer. Empty means WireAuto.
	Wire Wire `json:"wire,omitempty"`
	// Nodes holds addresses of nodes. Their ports within NodePorts are captured
	// like Service VIPs, all others never.
	Nodes []netip.Addr `json:"nodes,omitempty"`
	// NodePorts are the first and the last port that Services may have on every
	// node. Both zero means DefaultNodePorts.
	NodePorts [2]uint16 `json:"nodePorts,omitzero"`
	// PlaintextFrom holds the sources whose plaintext connections are let in
	// also in strict mode: the pod's own node, whose kubelet probes it, and what
	// the user allows.
	PlaintextFrom []netip.Prefix `json:"plaintextFrom,omitempty"`
	// Allow holds the identity rules: which peers may connect to the pod. See
	// ParseAllow. Empty means everyone in the trust domain.
	Allow []string `json:"allow,omitempty"`
	// BlockUDP refuses UDP to captured ranges in strict mode, DNS (port 53) and
	// excluded ports aside.
	BlockUDP bool `json:"blockUDP,omitempty"`
	// Existing is what happens to connections that were open before the gateway.
	// Empty means ExistingReport.
	Existing Existing `json:"existing,omitempty"`
	// Watched means that watch added the gateway, and may disable it when no annotation or
	// workload asks for it.
	Watched bool `json:"watched,omitempty"`
	// MetricsAddr is where metrics are served over TCP; see ParseMetricsAddr. An
	// address is one of PodIPs or of loopback. Empty means nowhere.
	MetricsAddr string `json:"metricsAddr,omitempty"`
}

// DefaultNodePorts returns the first and the last node port of a cluster that
// does not choose others (kube-apiserver: --service-node-port-range).
func DefaultNodePorts() [2]uint16 { return [2]uint16{30000, 32767} }

// OrDefault returns w, or WireAuto if w is empty.
func (w Wire) OrDefault() Wire {
	if w == "" {
		return WireAuto
	}
	return w
}

// OrDefault returns e, or ExistingReport if e is empty.
func (e Existing) OrDefault() Existing {
	if e == "" {
		return ExistingReport
	}
	return e
}

// ParseConfig reads the JSON form of a Config, fills in the defaults of what it
// leaves out, and checks it.
func ParseConfig(text []byte) (*Config, error) {
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("reading the gateway's configuration: %w", err)
	}
	c.Wire = c.Wire.OrDefault()
	if c.NodePorts == [2]uint16{} {
		c.NodePorts = DefaultNodePorts()
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("checking the gateway's configuration: %w", err)
	}
	return &c, nil
}

// Validate reports the first thing that is wrong with c.
func (c *Config) Validate() error {
	switch {
	case c.Version != ConfigVersion:
		return WithHint(fmt.Errorf("version %d is not supported, only %d", c.Version, ConfigVersion),
			"use the plugin and the gateway image of one release")
	case c.Pod.UID == "" || c.Pod.Name == "" || c.Pod.Namespace == "":
		return errors.New("the pod is not named completely")
	case len(c.PodIPs) == 0:
		return errors.New("the pod has no address")
	case c.TrustDomain == "":
		return errors.New("the trust domain is empty")
	case c.Mode != Permissive && c.Mode != Strict:
		return fmt.Errorf("mode %q is neither %q nor %q", c.Mode, Permissive, Strict)
	case c.OnFailure != FailOpen && c.OnFailure != FailClosed:
		return fmt.Errorf("on-failure %q is neither %q nor %q", c.OnFailure, FailOpen, FailClosed)
	case len(c.Capture) == 0 && len(c.Services) == 0:
		return errors.New("no range is to be captured")
	case c.Wire != "" && c.Wire != WireAuto && c.Wire != WirePort && c.Wire != WireInband:
		return fmt.Errorf("wire %q is none of %q, %q and %q", c.Wire, WireAuto, WirePort, WireInband)
	case !slices.Contains([]Existing{"", ExistingLeave, ExistingReport, ExistingReset}, c.Existing):
		return fmt.Errorf("existing %q is none of %q, %q and %q", c.Existing, ExistingLeave, ExistingReport, ExistingReset)
	case c.NodePorts != [2]uint16{} && (c.NodePorts[0] == 0 || c.NodePorts[0] > c.NodePorts[1]):
		return fmt.Errorf("node ports %d to %d are not a range of ports", c.NodePorts[0], c.NodePorts[1])
	}
	for _, list := range []struct {
		what string
		ips  []netip.Addr
	}{{"pod", c.PodIPs}, {"node", c.Nodes}} {
		for _, ip := range list.ips {
			if !ip.IsValid() || ip.IsLoopback() || ip.IsUnspecified() || ip.Is4In6() {
				return fmt.Errorf("%s address %v cannot be used", list.what, ip)
			}
		}
	}
	for _, ranges := range [][]netip.Prefix{c.Capture, c.Services, c.Exclude, c.PlaintextFrom} {
		for _, r := range ranges {
			if !r.IsValid() || r.Addr().Is4In6() {
				return fmt.Errorf("range %v cannot be used", r)
			}
		}
	}
	if err := c.checkMetricsAddr(); err != nil {
		return err
	}
	_, err := ParseAllow(c.Allow)
	return err
}
