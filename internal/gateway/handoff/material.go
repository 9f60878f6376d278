//go:build linux

package handoff

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Material is the configuration and the credentials of a gateway.
type Material struct {
	Config []byte `json:"config"`
	// Cert, Key and CA are PEM. All three are empty while a gateway waits for its first
	// certificate.
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
	CA   []byte `json:"ca"`
	// Revoked are the lists of what the authorities of CA have revoked.
	Revoked json.RawMessage `json:"revoked,omitempty"`
	// Reset asks the worker that this is sent to for a reset of the open connections that the
	// configuration forbids.
	Reset bool `json:"reset,omitempty"`
	// Quiesce asks the worker that this is sent to, instead of bringing settings, to accept no more, which it refuses if a
	// connection is open.
	Quiesce bool `json:"quiesce,omitempty"`
}

// String keeps the key out of logs that print a Material by mistake.
func (Material) String() string { return "Material(redacted)" }

// GoString does the same for %#v.
func (m Material) GoString() string { return m.String() }

// Certified reports whether there is a certificate already.
func (m *Material) Certified() bool { return len(m.Cert) > 0 }

// Settings returns what a proxy runs with: configuration, certificate and trust bundle.
func (m *Material) Settings() (*api.Config, tls.Certificate, *x509.CertPool, error) {
	config, err := api.ParseConfig(m.Config)
	if err != nil {
		return nil, tls.Certificate{}, nil, err
	}
	certificate, err := tls.X509KeyPair(m.Cert, m.Key)
	if err != nil {
		return nil, tls.Certificate{}, nil, fmt.Errorf("loading the certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(m.CA) {
		return nil, tls.Certificate{}, nil, errors.New("the trust bundle holds no certificate")
	}
	return config, certificate, roots, nil
}

// Revocations returns what the authorities of m's trust bundle have revoked in a trust domain.
func (m *Material) Revocations(trustDomain string) (*ca.Revocations, error) {
	if len(m.Revoked) == 0 {
		return nil, nil
	}
	roots, err := ca.ParseCertificates(m.CA)
	if err != nil {
		return nil, fmt.Errorf("reading the trust bundle: %w", err)
	}
	return ca.ParseRevocations(m.Revoked, roots, trustDomain)
}

// maxMaterial bounds the memory file in bytes: a Secret holds at most 1 MiB (Kubernetes:
// MaxSecretSize), the configuration less.
const maxMaterial = 4 << 20

// MaterialFromEnv reads the material from environment variables. Certificate, key and bundle are
// either all there, or all delivered later.
func MaterialFromEnv(lookup func(string) (string, bool)) (*Material, error) {
	var m Material
	var missing []string
	for _, v := range []struct {
		name string
		to   *[]byte
	}{{api.EnvConfig, &m.Config}, {api.EnvCert, &m.Cert}, {api.EnvKey, &m.Key}, {api.EnvCA, &m.CA}} {
		if value, _ := lookup(v.name); value != "" {
			*v.to = []byte(value)
		} else {
			missing = append(missing, v.name)
		}
	}
	if len(m.Config) == 0 || len(missing) > 0 && len(m.Cert)+len(m.Key)+len(m.CA) > 0 {
		return nil, api.WithHint(fmt.Errorf("environment variable %s is not set", missing[0]),
			"the gateway is started by 'kubectl gateway enable', not by hand")
	}
	complete, err := api.CompleteConfig(m.Config, lookup)
	if err != nil {
		return nil, err
	}
	m.Config = complete
	return &m, nil
}

// Seal writes the material to a sealed memory file for another process. The file is never on a
// disk and cannot be changed.
func (m *Material) Seal() (*os.File, error) {
	return memoryFile("material", unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW,
		func(f *os.File) error { return json.NewEncoder(f).Encode(m) })
}

// ReadMaterial reads what Seal wrote. The position of f does not matter, so that several workers,
// one after the other, can read the same file.
func ReadMaterial(f *os.File) (*Material, error) {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, maxMaterial))
	if err != nil {
		return nil, fmt.Errorf("reading the material: %w", err)
	}
	var m Material
	if err := json.Unmarshal(text, &m); err != nil {
		// The decoder's message may quote the text, which holds the key.
		return nil, errors.New("reading the material: it is not a material in JSON")
	}
	return &m, nil
}
