package api

// Unencrypted counts the connections of one direction that were refused or carried in
// plaintext for one reason, since the gateway started.
type Unencrypted struct {
	// Direction is Outbound or Inbound.
	Direction string `json:"direction"`
	// Reason is one of UnencryptedReasons.
	Reason      string `json:"reason"`
	Connections uint64 `json:"connections"`
}

// OtherReason stands for reasons that have no word, such as an answer that only a later
// version of the peer knows.
const OtherReason = "other"

// UnencryptedReasons returns the words for why connections of a direction are refused
// or carried in plaintext: a fixed list, fit for a label of metrics. The log has the
// same in full.
func UnencryptedReasons(direction string) []string {
	if direction == Outbound {
		return []string{
			"application_refused", "broken", "certificate_expired", "certificate_not_yet_valid", "crowded", "exhausted",
			"no_answer", "no_destination", "no_negotiation", "no_source", "no_wire", "not_allowed", "not_trusted", "option_lost",
			OtherReason, "peer_application_unreachable", "peer_expired", "peer_not_yet_valid", "peer_refused", "peer_reset",
			"peer_silent", "peer_unknown", "peer_unreachable", "rejected", "rejected_time", "stopping", "unreachable",
		}
	}
	return []string{
		"application_refused", "application_unreachable", "exhausted", "forbidden", "no_handshake", "not_allowed", OtherReason,
		"peer_expired", "peer_not_yet_valid", "plaintext", "stopping", "undetermined",
	}
}
