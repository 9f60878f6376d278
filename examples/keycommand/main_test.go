package main

import (
	"crypto"
	"crypto/elliptic"
	"net"
	"os"
	"os/exec"
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

// tool stands for pkcs11-tool: its token is a file.
const tool = `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	--output-file) out=$2 ;;
	--input-file) in=$2 ;;
	--read-object) exec openssl pkey -in "$TOKEN" -pubout -outform DER -out "$5" ;;
	esac
	shift
done
[ "$PIN" = 1234 ] && exec openssl pkeyutl -sign -inkey "$TOKEN" -in "$in" -out "$out"
`

func TestTokenHoldsAuthority(t *testing.T) {
	for _, name := range []string{"openssl", "jq"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		must.Do(t, os.WriteFile(path, []byte(text), mode))
		return path
	}
	write("pkcs11-tool", tool, 0o700)
	key := pki.ECKey(t, elliptic.P256())
	t.Setenv("TOKEN", write("token", string(must.Get(ca.EncodeKey(key))(t)), 0o600))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	command := keycommand.Command{Program: must.Get(filepath.Abs("../keycommand-pkcs11.sh"))(t), Args: []string{"module.so", "mesh", write("pin", "1234\n", 0o600)}}
	held := must.Get(command.Key(t.Context()))(t)
	authority := must.Get(ca.New(ca.Options{Key: held}))(t)
	must.Get(authority.Issue(ca.LeafRequest{Identity: identity.ID{TrustDomain: ca.DefaultTrustDomain, Namespace: "shop", ServiceAccount: "cart"}}))(t)

	write("pin", "4321\n", 0o600)
	if _, err := held.SignMessage(nil, []byte("hello"), crypto.SHA256); err == nil {
		t.Error("signed with a wrong PIN")
	}
	if _, err := command.KeyOf(t.Context(), pki.ECKey(t, elliptic.P256()).Public()).SignMessage(nil, []byte("hello"), crypto.SHA256); err == nil {
		t.Error("signed with another key")
	}
}
