package api

// Handover is what a gateway tells its successor: where it waits for it, and how each
// knows the other. It goes from one to the other through the plugin, over exec.
type Handover struct {
	// Socket is the name of an abstract Unix socket in the pod's network namespace, without
	// the leading zero byte.
	Socket string `json:"socket"`
	// Token is known to both gateways and to the plugin only. Neither end sends it: each
	// proves that it knows it.
	Token []byte `json:"token"`
}
