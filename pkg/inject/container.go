package inject

import (
	"cmp"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// configFor returns what the gateway of pod is told.
func (in *Injector) configFor(pod *corev1.Pod) *api.Config {
	c := in.Options.Config
	c.Version, c.TrustDomain = api.ConfigVersion, in.Authority.TrustDomain()
	c.Pod, c.PodIPs = installed.RefOf(pod), installed.PodIPs(pod)
	c.OnFailure = cmp.Or(c.OnFailure, c.Mode.OnFailure())
	c.Coverage, c.Wire, c.LogTotal = in.Survey.For(pod, c.Named), c.Wire.OrDefault(), installed.LogTotal(pod)
	return &c
}

// container describes the gateway called name, whose key is in secret, or which
// is to ask for its certificate if secret is empty.
func (in *Injector) container(name, secret string, config *api.Config) (*corev1.EphemeralContainer, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("checking the gateway's configuration: %w", err)
	}
	numbered := *config
	numbered.Number = installed.Number(name)
	text, err := json.Marshal(numbered)
	if err != nil {
		return nil, fmt.Errorf("writing the gateway's configuration: %w", err)
	}
	if len(text) > api.MaxConfig {
		return nil, api.WithHint(fmt.Errorf("the gateway's configuration has %d bytes, and may have %d", len(text), api.MaxConfig),
			"give it fewer rules, sources and ranges: wider ones where there are many; 'kubectl gateway allow' brings a gateway that runs more rules")
	}
	// The kubelet may start a container again whose Secret is gone, once the runtime has forgotten it.
	// If it could not, the API server would refuse every further status of the pod: none may lead from
	// terminated to waiting. A gateway without a certificate asks for one.
	fromSecret := func(variable, key string) corev1.EnvVar {
		return corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: key, Optional: new(true),
		}}}
	}
	container := installed.Supervisor(name, in.Options.Image, in.Options.PullPolicy, string(text))
	if secret != "" {
		container.Env = append(container.Env,
			fromSecret(api.EnvCert, corev1.TLSCertKey),
			fromSecret(api.EnvKey, corev1.TLSPrivateKeyKey),
			fromSecret(api.EnvCA, keyBundle))
	}
	return container, nil
}
