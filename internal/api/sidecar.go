package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// Environment variables that tell a sidecar which pod it is in. The kubelet sets them (downward API).
const (
	EnvPodNamespace   = "KUBE_GATEWAY_POD_NAMESPACE"
	EnvPodName        = "KUBE_GATEWAY_POD_NAME"
	EnvPodUID         = "KUBE_GATEWAY_POD_UID"
	EnvServiceAccount = "KUBE_GATEWAY_SERVICE_ACCOUNT"
	EnvNode           = "KUBE_GATEWAY_NODE"
	// EnvPodIPs has commas between the addresses.
	EnvPodIPs = "KUBE_GATEWAY_POD_IPS"
)

// PodField is a variable of a sidecar, and the path of the pod's field that it holds.
type PodField struct{ Env, Path string }

// PodFields are all that a sidecar is told about its pod.
func PodFields() []PodField {
	return []PodField{
		{EnvPodNamespace, "metadata.namespace"},
		{EnvPodName, "metadata.name"},
		{EnvPodUID, "metadata.uid"},
		{EnvServiceAccount, "spec.serviceAccountName"},
		{EnvNode, "spec.nodeName"},
		{EnvPodIPs, "status.podIPs"},
	}
}

// CompleteConfig returns the JSON form of a Config that says what pod it is for. That of a sidecar is
// made before there is a pod: lookup knows the variables of PodFields. Any other text is returned as it is.
func CompleteConfig(text []byte, lookup func(string) (string, bool)) ([]byte, error) {
	var c Config
	if err := json.Unmarshal(text, &c); err != nil || !c.Sidecar {
		// What is wrong with it ParseConfig says.
		return text, nil
	}
	value := func(name string) string {
		text, _ := lookup(name)
		return text
	}
	c.Pod = PodRef{
		Namespace: value(EnvPodNamespace), Name: value(EnvPodName), UID: value(EnvPodUID),
		ServiceAccount: value(EnvServiceAccount), Node: value(EnvNode),
	}
	c.PodIPs = nil
	for word := range strings.SplitSeq(value(EnvPodIPs), ",") {
		if word == "" {
			continue
		}
		ip, err := netip.ParseAddr(word)
		if err != nil {
			return nil, fmt.Errorf("reading the pod's addresses: %w", err)
		}
		c.PodIPs = append(c.PodIPs, ip.Unmap())
	}
	return json.Marshal(c)
}

// ConfigFromEnv returns the configuration of the gateway in whose container this process is, by lookup, which is
// os.LookupEnv. The error says so if it is in none.
func ConfigFromEnv(lookup func(string) (string, bool)) (*Config, error) {
	text, ok := lookup(EnvConfig)
	if !ok {
		return nil, fmt.Errorf("environment variable %s is not set", EnvConfig)
	}
	complete, err := CompleteConfig([]byte(text), lookup)
	if err != nil {
		return nil, err
	}
	return ParseConfig(complete)
}

// FirstSettings come to a sidecar with its first certificate: what depends on the pod and on what the
// cluster has by then.
type FirstSettings struct {
	Cover Cover `json:"cover"`
	// LogTotal is that of a LogConfig.
	LogTotal int64 `json:"logTotal,omitempty"`
	// Mode, Rules and Log take the place of those of the container's configuration, unless they are empty.
	Mode  Mode   `json:"mode,omitempty"`
	Rules *Rules `json:"rules,omitempty"`
	Log   Log    `json:"log,omitempty"`
}
