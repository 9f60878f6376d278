package traffic

import "github.com/kubectl-gateway/kubectl-gateway/internal/api"

// Direction is whether an application of the pod connects or is connected to. Its values
// are bits, so that a set of directions is one, too.
type Direction uint8

const (
	Outbound Direction = 1 << iota
	Inbound

	both = Outbound | Inbound
)

// Directions returns both directions, in the order of reports.
func Directions() [2]Direction { return [2]Direction{Outbound, Inbound} }

// String returns the direction's word, api.Outbound or api.Inbound.
func (d Direction) String() string {
	if d == Inbound {
		return api.Inbound
	}
	return api.Outbound
}

// Reason is why a connection was carried in plaintext, or was refused, or would have been. Zero
// is none.
type Reason uint8

// The reasons, each described by its row of the table. New ones go to the end.
const (
	None Reason = iota
	Other
	Exhausted
	Stopping

	// Outbound, before anything is dialled.
	NoDestination
	NoSource
	CertificateExpired
	CertificateNotYetValid
	NoWire
	PeerUnknown
	Crowded

	// Outbound, wire=port: the peer's port does not answer.
	PeerRefused
	PeerSilent
	PeerUnreachable

	// Outbound, wire=inband. A peer without a gateway and a middlebox that removes the option
	// look the same from here.
	OptionLost
	NoNegotiation

	// Outbound, once there is a peer.
	NoAnswer
	PeerReset
	NotTrusted
	Rejected
	RejectedTime
	PeerExpired
	PeerNotYetValid
	Broken
	Unreachable
	PeerNotAllowed
	PeerApplicationUnreachable

	// Inbound, before the peer is authenticated.
	Plaintext
	Undetermined
	NoHandshake
	ClientExpired
	ClientNotYetValid

	// Inbound, after that.
	IdentityNotAllowed
	Forbidden
	ApplicationRefused
	ApplicationUnreachable

	// Audited is the reason of a connection that is carried encrypted all the same.
	Audited

	// Inbound, after the peer is authenticated.
	TooManyConnections

	// Inbound, before the peer is authenticated.
	Evicted

	// Both directions, before anything is done for the connection.
	NoMemory

	// Outbound, wire=inband: something on the way drops packets with the option.
	OptionDropped

	// Outbound, wire=port: a peer that may have begun the connection is gone.
	PeerLost
	// Inbound, after the peer is authenticated: the other end of that.
	Repeated

	// Outbound: connect(2) has ended before it was known what becomes of the connection.
	GaveUp

	// Both directions: the authority has revoked the peer's certificate.
	Revoked

	reasons
)

// row describes a reason. The word is a label of metrics, unique in each of its directions. The
// text is "reason" in the log line of a connection. Metrics and logs are searched for both, so
// they never change. "error" in the log has the details of a case.
type row struct {
	in         Direction
	word, text string
}

// The table is append-only, as is the list of constants.
var table = [reasons]row{
	None:                       {},
	Other:                      {both, "other", "peer gave an unknown answer"},
	Exhausted:                  {both, "exhausted", "out of local resources"},
	Stopping:                   {both, "stopping", "gateway is stopping"},
	NoDestination:              {Outbound, "no_destination", "original destination is unknown"},
	NoSource:                   {Outbound, "no_source", "no source address"},
	CertificateExpired:         {Outbound, "certificate_expired", "own certificate expired"},
	CertificateNotYetValid:     {Outbound, "certificate_not_yet_valid", "own certificate is not valid yet"},
	NoWire:                     {Outbound, "no_wire", "wire port does not reach Services"},
	PeerUnknown:                {Outbound, "peer_unknown", "nothing is known about the peer in time"},
	Crowded:                    {Outbound, "crowded", "too many handshakes with the peer"},
	PeerRefused:                {Outbound, "peer_refused", "peer has no gateway: connection refused"},
	PeerSilent:                 {Outbound, "peer_silent", "peer has no gateway: no answer"},
	PeerUnreachable:            {Outbound, "peer_unreachable", "peer has no gateway: unreachable"},
	OptionLost:                 {Outbound, "option_lost", "peer has no gateway: TCP option not shown"},
	NoNegotiation:              {Outbound, "no_negotiation", "wire inband is not available"},
	NoAnswer:                   {Outbound, "no_answer", "peer is no gateway: no answer to the TLS handshake"},
	PeerReset:                  {Outbound, "peer_reset", "peer ended the connection in the TLS handshake"},
	NotTrusted:                 {Outbound, "not_trusted", "peer is no trusted gateway: TLS handshake failed"},
	Rejected:                   {Outbound, "rejected", "peer rejected our certificate"},
	RejectedTime:               {Outbound, "rejected_time", "peer rejected our certificate: expired or not valid yet by its clock"},
	PeerExpired:                {Outbound, "peer_expired", "peer is no trusted gateway: its certificate expired"},
	PeerNotYetValid:            {Outbound, "peer_not_yet_valid", "peer is no trusted gateway: its certificate is not valid yet"},
	Broken:                     {Outbound, "broken", "connection broke at the start"},
	Unreachable:                {Outbound, "unreachable", "destination cannot be reached"},
	PeerNotAllowed:             {Outbound, "not_allowed", "peer does not allow the connection"},
	PeerApplicationUnreachable: {Outbound, "peer_application_unreachable", "peer cannot reach the application"},
	Plaintext:                  {Inbound, "plaintext", "plaintext is not allowed"},
	Undetermined:               {Inbound, "undetermined", "whether the peer has a gateway is unknown"},
	NoHandshake:                {Inbound, "no_handshake", "no valid TLS handshake"},
	ClientExpired:              {Inbound, "peer_expired", "no valid TLS handshake: peer's certificate expired"},
	ClientNotYetValid:          {Inbound, "peer_not_yet_valid", "no valid TLS handshake: peer's certificate is not valid yet"},
	IdentityNotAllowed:         {Inbound, "not_allowed", "identity is not allowed"},
	Forbidden:                  {Inbound, "forbidden", "peer is not allowed to do this"},
	ApplicationRefused:         {both, "application_refused", "application refused the connection"},
	ApplicationUnreachable:     {Inbound, "application_unreachable", "application cannot be reached"},
	Audited:                    {Inbound, "audited", "identity would not be allowed"},
	TooManyConnections:         {Inbound, "too_many_connections", "identity has too many connections"},
	Evicted:                    {Inbound, "handshake_evicted", "too many handshakes at once"},
	NoMemory:                   {both, "no_memory", "no memory for the connection"},
	PeerLost:                   {Outbound, "peer_lost", "peer may have begun the connection and is lost"},
	Repeated:                   {Inbound, "repeated", "peer sent the connection twice"},
	OptionDropped:              {Outbound, "option_dropped", "packets with the TCP option are lost on the way"},
	GaveUp:                     {Outbound, "gave_up", "application gave up"},
	Revoked:                    {both, "revoked", "peer's certificate is revoked"},
}

// Reasons returns the reasons for which connections of a direction are not encrypted.
func Reasons(d Direction) []Reason {
	var all []Reason
	for r, row := range table {
		if row.in&d != 0 && Reason(r) != Audited {
			all = append(all, Reason(r))
		}
	}
	return all
}

// Word returns the reason's label in metrics.
func (r Reason) Word() string { return table[r].word }

// String returns the reason as it stands in the log.
func (r Reason) String() string { return table[r].text }
