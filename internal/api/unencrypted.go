package api

// Unencrypted counts the connections of one direction that were refused or carried in
// plaintext for one reason, since the gateway started.
type Unencrypted struct {
	// Direction is Outbound or Inbound.
	Direction string `json:"direction"`
	// Reason is a word of a fixed list, fit for a label of metrics. The log has it in full.
	Reason      string `json:"reason"`
	Connections uint64 `json:"connections"`
}
