package api

// EnvStatusPort is the environment variable of the gateway's container that holds a StatusPort as
// JSON. Without it the status is read by commands alone.
const EnvStatusPort = "KUBE_GATEWAY_STATUS_PORT"

// ALPNStatus is the application protocol of a StatusPort.
const ALPNStatus = "kube-gateway-status/1"

// StatusPort says how the status of a gateway is read without a process in its container: through the
// container runtime (pods/portforward), and by TLS with the gateway's certificate. It stands in
// the container's description, which nobody changes, so that no other process can answer in its place.
type StatusPort struct {
	// Port is where the gateway listens, on 127.0.0.1 of its pod.
	Port uint16 `json:"port"`
	// Roots are the SHA-256 fingerprints (lower-case hexadecimal) of the authorities that the gateway's
	// certificate leads to when the gateway starts.
	Roots []string `json:"roots"`
}

// firstStatusPort is the first of the ports for the status, of which there are statusPorts.
const (
	firstStatusPort = 18010
	statusPorts     = 8
)

// StatusPortOf returns the port of the gateway with this Config.Number. The gateways of a pod that
// run at the same time have different ones.
func StatusPortOf(number int) uint16 { return firstStatusPort + uint16(number%statusPorts) }
