package main

import (
	"crypto"
	"crypto/elliptic"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/keycommand"
)

// envProgram makes the test program the example itself.
const envProgram = "KEYCOMMAND_EXAMPLE"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// startAgent starts an agent that has keys, and makes it that of the test.
func startAgent(t *testing.T, keys ...crypto.Signer) {
	t.Helper()
	keyring := agent.NewKeyring()
	for _, key := range keys {
		must.Do(t, keyring.Add(agent.AddedKey{PrivateKey: key}))
	}
	// The path of a socket is bounded.
	dir := must.Get(os.MkdirTemp("", "agent"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	listener := must.Get(net.Listen("unix", socket))(t)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = agent.ServeAgent(keyring, conn) // ends with the connection
				_ = conn.Close()
			}()
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", socket)
	t.Setenv(envProgram, "1")
}

func TestAgentHoldsAuthority(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"P-256": pki.ECKey(t, elliptic.P256()), "RSA": pki.RSAKey(t, 2048), "Ed25519": pki.Ed25519Key(t)} {
		startAgent(t, pki.ECKey(t, elliptic.P256()), key)
		public := must.Get(ssh.NewPublicKey(key.Public()))(t)
		command := keycommand.Command{Program: must.Get(os.Executable())(t), Args: []string{ssh.FingerprintSHA256(public)}}
		authority, err := ca.New(ca.Options{Key: must.Get(command.Key(t.Context()))(t)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		must.Get(authority.Issue(ca.LeafRequest{Identity: identity.ID{TrustDomain: ca.DefaultTrustDomain, Namespace: "shop", ServiceAccount: "cart"}}))(t)
	}
	command := keycommand.Command{Program: must.Get(os.Executable())(t), Args: []string{"SHA256:nobody"}}
	if _, err := command.Key(t.Context()); err == nil {
		t.Error("the agent has a key that it has not")
	}
}
