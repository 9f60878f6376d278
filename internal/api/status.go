package api

import (
	"net/netip"
	"time"
)

// State is the state of a gateway, as it reports it.
type State string

const (
	// Starting means that nothing is captured yet.
	Starting State = "starting"
	// Ready means that programs are attached and the worker serves.
	Ready State = "ready"
	// Degraded means that the worker has ended and is being started again.
	Degraded State = "degraded"
	// Uncertified means that the gateway waits for its first certificate. Nothing is
	// captured yet.
	Uncertified State = "uncertified"
	// Standby means that the gateway waits until it is told to take over from another one. It
	// captures nothing yet.
	Standby State = "standby"
	// Draining means that the gateway is being disabled, or has handed over: it captures
	// nothing, and ends when its connections have ended or at the drain timeout.
	Draining State = "draining"
	// Disabled means that a sidecar was disabled, or has handed over, and was started again: it captures
	// nothing for the rest of the pod's life.
	Disabled State = "disabled"
)

// Status is a gateway's report of itself.
type Status struct {
	// Version is the build of the gateway.
	Version string `json:"version"`
	// FIPS140 is the version of the Go FIPS 140-3 module that does the gateway's cryptography, empty
	// where FIPS 140-3 mode is off.
	FIPS140   string    `json:"fips140,omitempty"`
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	StartedAt time.Time `json:"startedAt"`
	// Time is the gateway's clock when it answered.
	Time      time.Time    `json:"time,omitzero"`
	Pod       PodRef       `json:"pod"`
	PodIPs    []netip.Addr `json:"podIPs"`
	Mode      Mode         `json:"mode"`
	OnFailure OnFailure    `json:"onFailure"`
	Wire      Wire         `json:"wire,omitempty"`
	// Sidecar is that of a Config.
	Sidecar bool `json:"sidecar,omitempty"`
	// Rules are the identity rules in force.
	Rules
	// Missing names the features that could not be loaded, each with the reason. The
	// gateway works without them.
	Missing []string `json:"missing,omitempty"`
	// MetricsAddr is where metrics are served over TCP, empty for nowhere.
	MetricsAddr string      `json:"metricsAddr,omitempty"`
	Identity    string      `json:"identity"`
	Cert        Certificate `json:"certificate"`
	Worker      Worker      `json:"worker"`
	// Memory is nil if the gateway cannot read it.
	Memory *Memory `json:"memory,omitempty"`
	// Listeners are the ports where the gateway listens on loopback. It chooses them: others are
	// taken where the usual ones are.
	Listeners Listeners `json:"ports,omitzero"`
	Capture   Capture   `json:"capture"`
	Traffic   Traffic   `json:"traffic"`
	// Unencrypted counts, by reason, the connections that were refused or carried in
	// plaintext.
	Unencrypted []Unencrypted `json:"unencrypted,omitempty"`
	Log         LogStatus     `json:"log,omitzero"`
	// Reset is how many open connections were reset by the change that this status answers.
	Reset int `json:"reset,omitempty"`
	// Existing describes plaintext connections of the application that no gateway
	// carries. It is nil if the gateway does not list them.
	Existing *ExistingConnections `json:"existing,omitempty"`
}

// MissingProtection begins the entry of Status.Missing that says that the kernel may kill the whole
// gateway where the pod's memory is used up.
const MissingProtection = "protection where the pod's memory is used up"

// MissingConfinement begins the entry of Status.Missing that says that the kernel filters no system
// calls of the worker.
const MissingConfinement = "a filter of the worker's system calls"

// Listeners are the ports of a gateway on loopback.
type Listeners struct {
	// Capture is where captured connections arrive, Inband where in-band connections do.
	Capture uint16 `json:"capture"`
	Inband  uint16 `json:"inband"`
}

// MaxExisting is how many connections an ExistingConnections lists.
const MaxExisting = 50

// ExistingConnections counts the open connections between the application and captured
// ranges that its gateway does not carry. Most are older than the gateway.
type ExistingConnections struct {
	// Outbound and Inbound count those that are open, seen from the pod. Connections from
	// Config.PlaintextFrom do not count.
	Outbound int `json:"outbound"`
	Inbound  int `json:"inbound"`
	// Reset counts those that the gateway reset since it started.
	Reset int `json:"reset,omitempty"`
	// Connections are the first MaxExisting of them.
	Connections []ExistingConnection `json:"connections,omitempty"`
}

// ExistingConnection is one of ExistingConnections.
type ExistingConnection struct {
	// Direction is Outbound or Inbound.
	Direction string         `json:"direction"`
	Local     netip.AddrPort `json:"local"`
	Remote    netip.AddrPort `json:"remote"`
}

// Certificate describes the gateway's own certificate.
type Certificate struct {
	// Serial is in lower-case hexadecimal.
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	// Authorities are the SHA-256 fingerprints (lower-case hexadecimal) of the
	// certificates in the trust bundle.
	Authorities []string `json:"authorities"`
	// Issuer is the one of Authorities that the certificate's chain ends at, empty if it
	// ends at none.
	Issuer string `json:"issuer,omitempty"`
	// Revocations are the numbers of the lists of revocations that the gateway has, by the SHA-256
	// fingerprints of the certificates whose keys have signed them. Revoked means that one of them names
	// this certificate: peers refuse it.
	Revocations map[string]int64 `json:"revocations,omitempty"`
	Revoked     bool             `json:"revoked,omitempty"`
}

// Worker describes the unprivileged process that carries the traffic.
type Worker struct {
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
	// Restarts counts how often the supervisor restarted it.
	Restarts int `json:"restarts"`
	// Confinement is what keeps it from everything else than its work.
	Confinement Confinement `json:"confinement,omitzero"`
}

// Confinement describes what the kernel withholds from a process without privilege.
type Confinement struct {
	// Seccomp says that a filter allows the system calls that the process needs, and no others.
	Seccomp bool `json:"seccomp"`
	// Landlock is the version of Landlock's ABI that keeps the process from the file system, 0 for none.
	Landlock int `json:"landlock"`
}

// Memory describes the memory of a gateway and of its pod, in bytes.
type Memory struct {
	// Used is what the gateway's container uses, page cache included.
	Used int64 `json:"used"`
	// Limit is that of the gateway's container or of the pod, of which Left is not used, what the
	// kernel can reclaim included. A Limit of zero is none.
	Limit int64 `json:"limit,omitempty"`
	Left  int64 `json:"left,omitempty"`
	// Room is for how many more connections there is memory before new ones are refused. It has no
	// meaning without a Limit.
	Room int `json:"room,omitempty"`
	// Killed counts the processes of the gateway that the kernel killed for want of memory.
	Killed uint64 `json:"killed,omitempty"`
}

// Capture describes the eBPF programs and their counters.
type Capture struct {
	// Cgroup is the path of the pod's cgroup below the cgroup2 mount.
	Cgroup string `json:"cgroup"`
	// Programs are the names of the attached programs.
	Programs []string `json:"programs"`
	// Coverage is what is in force, and Fingerprint tells it from others. PlaintextFrom also
	// has the node's side of the pod's network, which the gateway finds itself.
	Coverage
	Fingerprint string `json:"fingerprint,omitempty"`
	// Named holds what the user named of it, see Config.
	Named    Coverage `json:"named,omitzero"`
	BlockUDP bool     `json:"blockUDP,omitempty"`
	// OutsideNetworks lists the networks of OutsideConnections, those with most of them first.
	// It is bounded: OutsideConnections counts all.
	OutsideNetworks []OutsideNetwork `json:"outsideNetworks,omitempty"`
	// Strangers lists clients without a gateway that permissive mode has let in, and strict
	// mode would not have: at most MaxStrangers of them, the one last seen first.
	Strangers []Stranger `json:"strangers,omitempty"`
	// Refused lists clients whose plaintext strict mode has refused at the SYN, as Strangers does.
	Refused []Stranger `json:"refused,omitempty"`
	CaptureCounts
}

// CaptureCounts counts calls of connect(2), datagrams and inbound connections since the
// gateway started.
type CaptureCounts struct {
	// Captured counts connections that were redirected to the gateway.
	Captured uint64 `json:"captured"`
	// ServicePassed counts connections to Service VIPs in plaintext, ServiceRefused those that
	// were refused for going there.
	ServicePassed  uint64 `json:"servicePassed"`
	ServiceRefused uint64 `json:"serviceRefused"`
	// Uncapturable counts connections that could not be captured, because the socket is bound
	// to a device (SO_BINDTODEVICE) or memory ran out: they were refused in strict mode, and
	// passed in plaintext otherwise.
	Uncapturable uint64 `json:"uncapturable"`
	// NoListener counts connections while no worker listened: they were refused in strict mode
	// and with FailClosed, and passed in plaintext otherwise.
	NoListener uint64 `json:"noListener"`
	// UDP counts calls of connect(2), sendto(2) and sendmsg(2) on UDP sockets to captured
	// ranges, except to port 53; no gateway encrypts them. UDPRefused counts those that were
	// refused. UDPAnswers counts apart, and not in UDP, those on sockets at port 53, which pass as
	// answers of a name server. Datagrams of a connected socket are not counted one by one.
	UDP        uint64 `json:"udp,omitempty"`
	UDPRefused uint64 `json:"udpRefused,omitempty"`
	UDPAnswers uint64 `json:"udpAnswers,omitempty"`
	// Steered counts inbound connections that were handed to the in-band listener because the
	// peer showed the option.
	Steered uint64 `json:"steered,omitempty"`
	// PlaintextAllowed counts inbound connections without the option that strict mode let in
	// because of PlaintextFrom. PlaintextRefused counts those that it refused at their SYN, or sent
	// to the gateway to be reset, or dropped while no worker listened (FailClosed).
	PlaintextAllowed uint64 `json:"plaintextAllowed,omitempty"`
	PlaintextRefused uint64 `json:"plaintextRefused,omitempty"`
	// Excluded counts connections that were not captured because the coverage excludes or
	// passes their destination, what the pod forwards included.
	Excluded uint64 `json:"excluded,omitempty"`
	// OutsideConnections counts connections into private address space that no range names, what
	// the pod forwards included, OutsideRefused those of them that were refused.
	OutsideConnections uint64 `json:"outsideConnections,omitempty"`
	OutsideRefused     uint64 `json:"outsideRefused,omitempty"`
	// Nested counts connections from network namespaces that processes of the pod have made
	// (containers in the pod, for example), where the gateway cannot capture. Forwarded counts SYNs
	// to captured ranges that the pod forwards for others, or that a process writes by itself. Both
	// were refused in strict mode, and passed in plaintext otherwise. What passes from such a
	// namespace by way of the pod's own counts once.
	Nested    uint64 `json:"nested,omitempty"`
	Forwarded uint64 `json:"forwarded,omitempty"`
}

// OutsideNetwork counts connections into a network in private address space that no range
// names, a /24 of IPv4 or a /64 of IPv6.
type OutsideNetwork struct {
	Network     netip.Prefix `json:"network"`
	Connections uint64       `json:"connections"`
}

// MaxStrangers is how many clients without a gateway a Capture lists.
const MaxStrangers = 256

// Stranger counts the connections of a client without a gateway to one port of the pod. A
// connection whose SYN was sent several times counts as several.
type Stranger struct {
	Client      netip.Addr `json:"client"`
	Port        uint16     `json:"port"`
	Connections uint64     `json:"connections"`
	// LastSeen is when a connection last began, by the gateway's clock.
	LastSeen time.Time `json:"lastSeen"`
}

// Traffic counts connections since the gateway started, worker restarts included.
type Traffic struct {
	Outbound Direction `json:"outbound"`
	Inbound  Direction `json:"inbound"`
}

// Direction counts the connections of one direction, seen from the pod.
type Direction struct {
	// Active is the number of open connections.
	Active int64 `json:"active"`
	// Encrypted, Plaintext and Refused count how connections were carried. Each
	// connection counts in exactly one of them, once that is decided.
	Encrypted uint64 `json:"encrypted"`
	Plaintext uint64 `json:"plaintext"`
	Refused   uint64 `json:"refused"`
	// Inband counts those of Encrypted on WireInband.
	Inband uint64 `json:"inband,omitempty"`
	// Reused counts those of Encrypted that travelled on a connection between the gateways which
	// had carried others before: without a handshake.
	Reused uint64 `json:"reused,omitempty"`
	// NotAllowed counts those of Refused that the identity rules did not allow, Audited
	// connections that they would not have allowed without Rules.Audit.
	NotAllowed uint64 `json:"notAllowed,omitempty"`
	Audited    uint64 `json:"audited,omitempty"`
	// Reset counts those that were open and were reset because new rules or strict mode
	// forbade them.
	Reset uint64 `json:"reset,omitempty"`
	// OptionLost counts connections on WireInband whose other end did not send the TCP
	// option: it has no gateway, or something on the way removed the option. They count
	// in Plaintext or, in strict mode, in Refused.
	OptionLost uint64 `json:"optionLost,omitempty"`
	// OptionDropped counts connections on WireInband to where packets with the TCP option are
	// lost: without the option, they count in Plaintext or, in strict mode, in Refused.
	OptionDropped uint64 `json:"optionDropped,omitempty"`
	// Sent and Received count bytes of the application, as it sees them.
	Sent     uint64 `json:"bytesSent"`
	Received uint64 `json:"bytesReceived"`
}

// Unencrypted counts the connections of one direction that were refused or carried in
// plaintext for one reason, since the gateway started.
type Unencrypted struct {
	// Direction is Outbound or Inbound.
	Direction string `json:"direction"`
	// Reason is a word of a fixed list, fit for a label of metrics. The log has it in full.
	Reason      string `json:"reason"`
	Connections uint64 `json:"connections"`
}
