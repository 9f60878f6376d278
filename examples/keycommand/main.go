// Command keycommand lets an SSH agent hold the key of an authority:
//
//	go build -o ~/bin/keycommand ./examples/keycommand
//	ssh-add -l
//	kubectl gateway init-ca --key-command=$HOME/bin/keycommand --key-arg=SHA256:...
//
// The agent may be forwarded, have the key on a token (ssh-add -s), or ask before each use (ssh-add -c). Its key must
// be ECDSA P-256, RSA or Ed25519: for other curves an agent takes another hash than authorities do.
//
// Any other crypto.Signer is served in the same way: see package keycommand.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/keycommand"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run answers one request with the key whose SHA-256 fingerprint is the one argument.
func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: keycommand SHA256:FINGERPRINT (as ssh-add -l prints it)")
	}
	conn, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK"))
	if err != nil {
		return fmt.Errorf("reaching the agent of $SSH_AUTH_SOCK: %w", err)
	}
	defer func() { _ = conn.Close() }()
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	for _, signer := range signers {
		if ssh.FingerprintSHA256(signer.PublicKey()) != args[0] {
			continue
		}
		key, err := newAgentKey(signer)
		if err != nil {
			return err
		}
		return keycommand.Serve(key, in, out)
	}
	return fmt.Errorf("the agent has no key %s", args[0])
}

// agentKey is a key of an agent. It implements crypto.MessageSigner: agents hash by themselves.
type agentKey struct {
	signer ssh.AlgorithmSigner
	public crypto.PublicKey
}

func newAgentKey(signer ssh.Signer) (*agentKey, error) {
	key, err := ssh.ParsePublicKey(signer.PublicKey().Marshal())
	if err != nil {
		return nil, err
	}
	public, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil, fmt.Errorf("keys of type %s cannot be used", signer.PublicKey().Type())
	}
	with, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("the agent is too old")
	}
	return &agentKey{with, public.CryptoPublicKey()}, nil
}

func (k *agentKey) Public() crypto.PublicKey { return k.public }

func (k *agentKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("an agent signs messages, and no hashes")
}

func (k *agentKey) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	algorithm := k.signer.PublicKey().Type()
	if algorithm == ssh.KeyAlgoRSA {
		algorithm = ssh.KeyAlgoRSASHA256
	}
	signature, err := k.signer.SignWithAlgorithm(rand, message, algorithm)
	if err != nil {
		return nil, err
	}
	if _, ok := k.public.(*ecdsa.PublicKey); !ok {
		return signature.Blob, nil
	}
	var numbers struct{ R, S *big.Int }
	if err := ssh.Unmarshal(signature.Blob, &numbers); err != nil {
		return nil, fmt.Errorf("reading the agent's signature: %w", err)
	}
	return asn1.Marshal(numbers)
}
