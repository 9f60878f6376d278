//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	// kubeletName is how the API server finds all kubelets.
	kubeletName = "localhost"
	loopback    = "127.0.0.1"
	// readyTimeout bounds the start of the API server.
	readyTimeout = 2 * time.Minute
)

// server is an API server with its etcd.
type server struct {
	dir       string
	authority *authority
	url       string
	// admin may do everything, and is not slowed down.
	admin *kubernetes.Clientset
	// kubeconfig is the administrator's.
	kubeconfig string
	processes  sync.WaitGroup
	// pids are those of the components, by name.
	pids map[string]int
}

// startServer starts etcd and the API server, which end with ctx, and waits until it is ready.
func startServer(ctx context.Context, tool, dir string) (*server, error) {
	program, err := findKubernetes(ctx, tool)
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, kubeconfig: filepath.Join(dir, "kubeconfig"), pids: map[string]int{}}
	if s.authority, err = newAuthority(); err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	if err := s.writeFiles(); err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	store, peers := "http://"+ports[0], "http://"+ports[1]
	s.url = "https://" + ports[2]
	_, port, _ := net.SplitHostPort(ports[2])
	if err := s.start(ctx, program, "etcd", "--data-dir", file("etcd"), "--listen-client-urls", store, "--advertise-client-urls", store,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers,
		"--unsafe-no-fsync", "--log-level", "error"); err != nil {
		return nil, err
	}
	if err := s.start(ctx, program, "kube-apiserver", "--etcd-servers="+store, "--bind-address="+loopback, "--advertise-address=192.0.2.1",
		"--secure-port="+port, "--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file="+file("server.crt"), "--tls-private-key-file="+file("server.key"), "--client-ca-file="+file("ca.crt"),
		"--kubelet-certificate-authority="+file("ca.crt"), "--kubelet-client-certificate="+file("admin.crt"), "--kubelet-client-key="+file("admin.key"),
		"--kubelet-preferred-address-types=ExternalDNS",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+file("server.key"),
		"--service-account-signing-key-file="+file("server.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		// As a cluster of this size has it, on processors that it shares with all else here.
		"--max-requests-inflight=1600", "--max-mutating-requests-inflight=800"); err != nil {
		return nil, err
	}
	config, err := s.config("admin", "system:masters")
	if err != nil {
		return nil, err
	}
	if s.admin, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	return s, s.awaitReady(ctx)
}

// findKubernetes returns the executable that is etcd and the API server, by its name.
func findKubernetes(ctx context.Context, tool string) (string, error) {
	list, err := exec.CommandContext(ctx, tool, "build").Output()
	if err != nil {
		return "", fmt.Errorf("building the programs of the embedded cluster: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		if path := strings.TrimSpace(line); filepath.Base(path) == "kube" {
			return path, nil
		}
	}
	return "", errors.New("the embedded cluster has no program called kube")
}

// start runs a component of Kubernetes until ctx ends, or this process does.
func (s *server) start(ctx context.Context, program, name string, args ...string) error {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Args = append([]string{name}, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = endsWithParent()
	started := make(chan error)
	s.processes.Go(func() {
		defer log.Close()
		// The process ends with the thread that has started it.
		stay := lockThread()
		defer stay()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // awaitReady notices
		}
	})
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	s.pids[name] = cmd.Process.Pid
	return nil
}

func (s *server) wait() { s.processes.Wait() }

// awaitReady waits for the API server and its first namespaces.
func (s *server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		_, err := s.admin.CoreV1().Namespaces().Get(ctx, "kube-system", metav1.GetOptions{})
		if err == nil {
			err = s.admin.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server is not ready: %w\n%s", err, s.lastWords())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// lastWords returns the end of the API server's log.
func (s *server) lastWords() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "kube-apiserver.log"))
	return string(text[max(0, len(text)-2000):])
}

// config returns the connection of a user.
func (s *server) config(user string, groups ...string) (*rest.Config, error) {
	cert, key, err := s.authority.client(user, groups...)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: s.url, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.authority.pem(), CertData: cert, KeyData: key},
		ContentConfig:   rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
	}, nil
}

func (s *server) writeFiles() error {
	files := map[string][]byte{"ca.crt": s.authority.pem()}
	var err error
	if files["server.crt"], files["server.key"], err = s.authority.serving(); err != nil {
		return err
	}
	if files["admin.crt"], files["admin.key"], err = s.authority.client("admin", "system:masters"); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// writeKubeconfig writes the kubeconfig of the plugin.
func (s *server) writeKubeconfig(namespace string) error {
	cert, key, err := s.authority.client("admin", "system:masters")
	if err != nil {
		return err
	}
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"crowd": {Server: s.url, CertificateAuthorityData: s.authority.pem()}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"admin": {ClientCertificateData: cert, ClientKeyData: key}},
		Contexts:       map[string]*clientcmdapi.Context{"crowd": {Cluster: "crowd", AuthInfo: "admin", Namespace: namespace}},
		CurrentContext: "crowd",
	}, s.kubeconfig)
}

// freePorts returns n loopback addresses with ports that are free.
func freePorts(n int) (addresses []string, err error) {
	for range n {
		listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}

// authority signs the certificates of everybody here.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := template("crowd")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand does not fail
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// client returns a user's certificate and key.
func (a *authority) client(user string, groups ...string) (cert, key []byte, err error) {
	t := template(user)
	t.Subject.Organization = groups
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(t)
}

// serving returns the certificate and key of the API server and of all kubelets.
func (a *authority) serving() (cert, key []byte, err error) {
	t := template("server")
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.DNSNames, t.IPAddresses = []string{kubeletName}, []net.IP{net.ParseIP(loopback)}
	return a.issue(t)
}

func (a *authority) issue(t *x509.Certificate) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, k.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	// In SEC 1 form: the API server takes no other to check tokens with.
	text, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: text}), nil
}

// kubeletTLS is that of a kubelet: the API server has to show a certificate.
func (a *authority) kubeletTLS() (*tls.Config, error) {
	cert, key, err := a.serving()
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}, nil
}

// metrics returns the API server's metrics as text.
func (s *server) metrics(ctx context.Context) (io.Reader, error) {
	text, err := s.admin.Discovery().RESTClient().Get().AbsPath("/metrics").SetHeader("Accept", "text/plain").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	return bufio.NewReader(bytes.NewReader(text)), nil
}
