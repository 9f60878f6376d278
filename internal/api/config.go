package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// ConfigVersion is the version of Config's JSON form that this build speaks.
const ConfigVersion = 1

// Ports of a gateway. An application in the same pod cannot use PeerPort. Where one of the others is
// taken, the gateway uses the next pair, see ListenerPairs.
const (
	// CapturePort is where captured connections arrive, on loopback only.
	CapturePort = 18000
	// PeerPort is the TLS listener that other gateways dial (wire=port).
	PeerPort = 18443
	// InbandPort is where in-band connections arrive (wire=inband). Its listener is on
	// loopback; they are steered there from every port of the pod.
	InbandPort = 18444
	// FirstSpreadPort is the first of the ports of loopback, of which the last one is 65535, that captured
	// connections have at the gateway's end where it can spread them. Nobody listens there.
	FirstSpreadPort = 64512
)

// ListenerPairs returns the ports that a gateway tries for its listeners on loopback, in this order:
// CapturePort and InbandPort, then those behind them and behind MetricsPort.
func ListenerPairs() []Listeners {
	pairs := []Listeners{{Capture: CapturePort, Inband: InbandPort}}
	for i := range uint16(7) {
		pairs = append(pairs, Listeners{Capture: CapturePort + 1 + i, Inband: MetricsPort + 1 + i})
	}
	return pairs
}

// ALPN is the application protocol that gateways speak on either wire if they have no other in common.
const ALPN = "kube-gateway/1"

// ALPNReuse is the protocol of wire=port in which a TLS connection carries several connections of
// applications, one after the other. Gateways that both speak it prefer it to ALPN.
const ALPNReuse = "kube-gateway/2"

// ALPNFrames is ALPNReuse with urgent data. In band it is ALPN with urgent data, and with headers that can ask for
// an answer before the application's first data. Gateways that both speak it prefer it.
const ALPNFrames = "kube-gateway/3"

// WorkerID is the user and group ID of the worker process. Nobody else gives it out: it is within what Debian
// reserves (65000 to 65533) and outside of what systemd does (61184 to 65519), and no base image has it as its user.
const WorkerID = 65521

// Environment variables of the gateway's container. The three TLS variables
// come from the Secret, the configuration from the container's own spec.
const (
	EnvConfig = "KUBE_GATEWAY_CONFIG"
	EnvCert   = "KUBE_GATEWAY_TLS_CERT"
	EnvKey    = "KUBE_GATEWAY_TLS_KEY"
	EnvCA     = "KUBE_GATEWAY_CA"
)

// MaxConfig bounds the text of EnvConfig, in bytes: Linux starts no program with a longer environment variable
// (MAX_ARG_STRLEN of linux/binfmts.h is 32 pages), and nobody can take a container out of a pod whose program cannot be started.
const MaxConfig = 128<<10 - len(EnvConfig+"=\x00")

// Mode decides about connections that cannot be encrypted.
type Mode string

const (
	// Permissive carries them in plaintext, and counts them.
	Permissive Mode = "permissive"
	// Strict refuses them.
	Strict Mode = "strict"
)

// OnFailure is what follows from m where nobody says it.
func (m Mode) OnFailure() OnFailure {
	if m == Strict {
		return FailClosed
	}
	return FailOpen
}

// Wire is how the gateways of two pods connect: WireAuto, WirePort or WireInband. Empty
// means WireAuto.
type Wire string

// OnFailure decides about captured connections once the gateway has ended.
type OnFailure string

const (
	// FailOpen removes the capture with the gateway: connections are plaintext.
	FailOpen OnFailure = "open"
	// FailClosed keeps the capture: connect(2) fails with EPERM.
	FailClosed OnFailure = "closed"
)

// Existing decides about plaintext connections into captured ranges that are open when a
// gateway starts.
type Existing string

const (
	// ExistingLeave ignores them, and does not look for them.
	ExistingLeave Existing = "leave"
	// ExistingReport counts and lists them in the gateway's status.
	ExistingReport Existing = "report"
	// ExistingReset resets them, so that applications open new ones, which are
	// encrypted.
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
	// PodIPs are the addresses of the pod. A gateway dials no others on behalf of a peer.
	PodIPs      []netip.Addr `json:"podIPs"`
	TrustDomain string       `json:"trustDomain"`
	Mode        Mode         `json:"mode"`
	OnFailure   OnFailure    `json:"onFailure"`
	Coverage
	// Named holds what the user named of it, from which the plugin makes it again when the
	// cluster changes.
	Named Coverage `json:"named,omitzero"`
	// Wire is how connections reach the peer. Empty means WireAuto.
	Wire Wire `json:"wire,omitempty"`
	// Rules say which peers may connect to the pod.
	Rules
	// BlockUDP refuses UDP to captured ranges in strict mode, except for DNS (port 53)
	// and excluded ports.
	BlockUDP bool `json:"blockUDP,omitempty"`
	// Existing is what happens to connections that are open when the gateway starts.
	// Empty means ExistingReport.
	Existing Existing `json:"existing,omitempty"`
	// Watched means that watch added the gateway, and may disable it when no annotation or
	// workload asks for it.
	Watched bool `json:"watched,omitempty"`
	// MetricsAddr is where metrics are served over TCP, see ParseMetricsAddr. Its address
	// is one of PodIPs or of loopback. Empty means nowhere.
	MetricsAddr string `json:"metricsAddr,omitempty"`
	// LogConfig is about the gateway's log.
	LogConfig
	// Number is that of the container among the pod's gateways, the first of which is 1: a
	// container with a greater number is newer. 0 means that the plugin did not say.
	Number int `json:"number,omitempty"`
	// Sidecar means that the gateway came with its pod, as an init container that the kubelet starts
	// again whenever it ends. It waits for its first certificate as long as it takes, and gets
	// FirstSettings with it.
	Sidecar bool `json:"sidecar,omitempty"`
	// Replaces is the name of the container whose gateway this one takes over from. It waits
	// in state Standby until it is told to. Empty means that there is none.
	Replaces string `json:"replaces,omitempty"`
}

// DefaultNodePorts returns Kubernetes' default of the first and the last node port
// (kube-apiserver: --service-node-port-range).
func DefaultNodePorts() [2]uint16 { return [2]uint16{30000, 32767} }

// OrDefault returns w, or WireAuto if w is empty.
func (w Wire) OrDefault() Wire { return cmp.Or(w, WireAuto) }

// OrDefault returns e, or ExistingReport if e is empty.
func (e Existing) OrDefault() Existing { return cmp.Or(e, ExistingReport) }

// ParseConfig parses the JSON form of a Config, sets the defaults of missing fields, and
// validates the result.
func ParseConfig(text []byte) (*Config, error) {
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("reading the gateway's configuration: %w", err)
	}
	c.Wire = c.Wire.OrDefault()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("checking the gateway's configuration: %w", err)
	}
	return &c, nil
}

// Validate returns the first error in c.
func (c *Config) Validate() error {
	switch {
	case c.Version != ConfigVersion:
		return WithHint(fmt.Errorf("version %d is not supported, only %d", c.Version, ConfigVersion),
			"use the plugin and the gateway image of one release")
	case c.Pod.UID == "" || c.Pod.Name == "" || c.Pod.Namespace == "":
		return errors.New("the pod's name, namespace or UID is missing")
	case len(c.PodIPs) == 0:
		return errors.New("the pod has no address")
	case c.TrustDomain == "":
		return errors.New("the trust domain is empty")
	case c.Mode != Permissive && c.Mode != Strict:
		return fmt.Errorf("mode %q is neither %q nor %q", c.Mode, Permissive, Strict)
	case c.OnFailure != FailOpen && c.OnFailure != FailClosed:
		return fmt.Errorf("on-failure %q is neither %q nor %q", c.OnFailure, FailOpen, FailClosed)
	case c.Wire != "" && c.Wire != WireAuto && c.Wire != WirePort && c.Wire != WireInband:
		return fmt.Errorf("wire %q is none of %q, %q and %q", c.Wire, WireAuto, WirePort, WireInband)
	case !slices.Contains([]Existing{"", ExistingLeave, ExistingReport, ExistingReset}, c.Existing):
		return fmt.Errorf("existing %q is none of %q, %q and %q", c.Existing, ExistingLeave, ExistingReport, ExistingReset)
	}
	for _, ip := range c.PodIPs {
		if err := cmp.Or(usable("pod", ip), identity.CheckAddress(ip)); err != nil {
			return err
		}
	}
	// That of a sidecar comes with its first certificate.
	if err := c.Coverage.Validate(); err != nil && !(c.Sidecar && c.Coverage.Fingerprint() == new(Coverage).Fingerprint()) {
		return err
	}
	if err := c.checkMetricsAddr(); err != nil {
		return err
	}
	if err := c.LogConfig.validate(); err != nil {
		return err
	}
	_, err := c.Rules.Parse()
	return err
}

// MetricsPort is the port that documentation and examples suggest for a gateway's metrics. By
// default a gateway serves them on no port.
const MetricsPort = 18445

// ExporterID is the user and group ID of the process that serves metrics, and ProbeID that of probes. They
// differ from WorkerID, so that no process can send another one a signal.
const (
	ExporterID = 65522
	ProbeID    = 65523
)

// ParseMetricsAddr reads where metrics are served: "[IP]:PORT", or ":PORT" for all addresses of the
// pod, for which the address of the result is not valid. The port must not be one of the gateway's
// own.
func ParseMetricsAddr(text string) (netip.AddrPort, error) {
	full, all := text, len(text) > 0 && text[0] == ':'
	if all {
		full = "127.0.0.1" + text
	}
	addr, err := netip.ParseAddrPort(full)
	ip := addr.Addr()
	switch {
	case err != nil, ip.Zone() != "", ip.Is4In6():
		return netip.AddrPort{}, WithHint(fmt.Errorf("%q is not an address with a port", text),
			fmt.Sprintf("write it like :%d, or 127.0.0.1:%[1]d for the pod itself alone", MetricsPort))
	case ip.IsUnspecified():
		return netip.AddrPort{}, WithHint(fmt.Errorf("%q is not an address of a pod", text),
			fmt.Sprintf("for all addresses of the pod leave it out: :%d", addr.Port()))
	case addr.Port() == 0, slices.Contains([]uint16{CapturePort, PeerPort, InbandPort}, addr.Port()):
		return netip.AddrPort{}, WithHint(fmt.Errorf("metrics cannot be served on port %d", addr.Port()),
			fmt.Sprintf("ports %d, %d and %d are the gateway's own; %d is free of those", CapturePort, PeerPort, InbandPort, MetricsPort))
	}
	if all {
		return netip.AddrPortFrom(netip.Addr{}, addr.Port()), nil
	}
	return addr, nil
}

// checkMetricsAddr returns why metrics cannot be served at c.MetricsAddr.
func (c *Config) checkMetricsAddr() error {
	if c.MetricsAddr == "" {
		return nil
	}
	addr, err := ParseMetricsAddr(c.MetricsAddr)
	if err != nil {
		return err
	}
	if ip := addr.Addr(); ip.IsValid() && !ip.IsLoopback() && !slices.Contains(c.PodIPs, ip) {
		return WithHint(fmt.Errorf("metrics cannot be served on %v, which is not an address of the pod", ip),
			fmt.Sprintf("for all addresses of each pod leave it out: :%d", addr.Port()))
	}
	return nil
}
