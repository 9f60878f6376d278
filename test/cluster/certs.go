//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// certificateLife is that of every certificate: the cluster is thrown away long before.
const certificateLife = 365 * 24 * time.Hour

// authority signs the certificates of one cluster. Its key never leaves pki/.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// leaf is what a certificate says about its owner.
type leaf struct {
	file      string // pki/<file>.crt and .key
	name      string // common name: the Kubernetes user
	groups    []string
	hosts     []string // DNS names and IP addresses, for servers
	extension x509.ExtKeyUsage
}

// leaves are all the certificates of a cluster.
func leaves(settings Settings) []leaf {
	const client, server = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	all := []leaf{
		{"apiserver", "kube-apiserver", nil, apiServerHosts(), server},
		{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil, client},
		{"admin", "kubernetes-admin", []string{"system:masters"}, nil, client},
		{"controller-manager", "system:kube-controller-manager", nil, nil, client},
		{"scheduler", "system:kube-scheduler", nil, nil, client},
		{"proxy", "system:kube-proxy", nil, nil, client},
		{"coredns", "coredns", nil, nil, client},
	}
	for _, node := range settings.machines() {
		all = append(all,
			leaf{node.Name + "-client", "system:node:" + node.Name, []string{"system:nodes"}, nil, client},
			leaf{node.Name + "-server", node.Name, nil, []string{node.Name, node.IPv4.String(), node.IPv6.String()}, server})
	}
	return all
}

// makeCertificates fills pki/: the authority, every leaf, and the key that
// signs service account tokens.
func (c *Cluster) makeCertificates(settings Settings) error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	if err := c.writePair("ca", ca.certificate.Raw, ca.key); err != nil {
		return err
	}
	for _, l := range leaves(settings) {
		der, key, err := ca.issue(l)
		if err != nil {
			return err
		}
		if err := c.writePair(l.file, der, key); err != nil {
			return err
		}
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	return c.writeKey("service-accounts", key)
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

func newAuthority() (*authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := newTemplate("kubectl-gateway test cluster")
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the authority: %w", err)
	}
	return &authority{certificate, key}, nil
}

func newTemplate(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand does not fail
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-5 * time.Minute),
		NotAfter:     time.Now().Add(certificateLife),
	}
}

func (a *authority) issue(l leaf) (der []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = newKey(); err != nil {
		return nil, nil, err
	}
	template := newTemplate(l.name)
	template.Subject.Organization = l.groups
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{l.extension}
	for _, host := range l.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err = x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issuing the certificate of %s: %w", l.name, err)
	}
	return der, key, nil
}

func (c *Cluster) writePair(file string, der []byte, key *ecdsa.PrivateKey) error {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := writeFile(c.certFile(file), text, 0o644); err != nil {
		return err
	}
	return c.writeKey(file, key)
}

func (c *Cluster) writeKey(file string, key *ecdsa.PrivateKey) error {
	// In SEC 1 form: as a key to verify tokens with, the API server takes no other.
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	return writeFile(c.keyFile(file), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

func (c *Cluster) certFile(name string) string { return c.path("pki", name+".crt") }
func (c *Cluster) keyFile(name string) string  { return c.path("pki", name+".key") }

// clientTLS is the configuration to talk to the API server as a certificate's
// owner; with name "" as nobody.
func (c *Cluster) clientTLS(name string) (*tls.Config, error) {
	text, err := os.ReadFile(c.certFile("ca"))
	if err != nil {
		return nil, fmt.Errorf("reading the authority's certificate: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(text)
	if name != "" {
		pair, err := tls.LoadX509KeyPair(c.certFile(name), c.keyFile(name))
		if err != nil {
			return nil, fmt.Errorf("reading the certificate of %s: %w", name, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
