// Package keycommand is how a program that holds the key of an authority is asked to sign: a token, an
// agent or a key management service can so be used without the key ever being in a file.
//
// The program is started for each request, without a shell. It reads one [Request] as JSON from its
// standard input, writes one [Response] as JSON to its standard output, and ends. Binary values are in
// base64. What it says on its standard error is shown to the user if it fails. Several may run
// at a time. To ask the user for something it opens the terminal itself.
//
// A [Command] is the plugin's side. [Serve] makes a program of any crypto.Signer.
package keycommand

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the protocol in every request and response. What a later release adds to
// it, programs may ignore; a change that they must know gets another version.
const Version = "keycommand.kubectl-gateway.github.io/v1"

// maxMessage bounds a request and a response, in bytes. A certificate to be signed has about 500.
const maxMessage = 64 << 10

// Operation is what a program is asked for.
type Operation string

const (
	// PublicKey asks for the public key.
	PublicKey Operation = "public-key"
	// Sign asks for a signature.
	Sign Operation = "sign"
)

// Request is what a program is asked.
type Request struct {
	APIVersion string    `json:"apiVersion"`
	Operation  Operation `json:"operation"`
	// PublicKey is the key that is to sign, as SubjectPublicKeyInfo (RFC 5280) in DER. It is
	// empty in a request for the public key.
	PublicKey []byte `json:"publicKey,omitempty"`
	// Algorithm is ECDSA-SHA256, ECDSA-SHA384, ECDSA-SHA512, SHA256-RSA (PKCS #1 v1.5) or
	// Ed25519: the names of x509.SignatureAlgorithm.
	Algorithm string `json:"algorithm,omitempty"`
	// Message is what is signed, and Digest its hash, for those that sign hashes. Ed25519 has none.
	Message []byte `json:"message,omitempty"`
	Digest  []byte `json:"digest,omitempty"`
}

// Response is what a program answers.
type Response struct {
	APIVersion string `json:"apiVersion"`
	// PublicKey is as in Request.
	PublicKey []byte `json:"publicKey,omitempty"`
	// Signature is in DER for ECDSA.
	Signature []byte `json:"signature,omitempty"`
	// Error is why there is neither, for the user.
	Error string `json:"error,omitempty"`
}

// ErrProtocol means that a program, or who has called it, does not speak this protocol.
var ErrProtocol = errors.New("it does not speak " + Version)

// read reads one JSON object of bounded size, and nothing behind it.
func read(r io.Reader, message any) error {
	text, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return fmt.Errorf("%w: more than %d bytes", ErrProtocol, maxMessage)
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return fmt.Errorf("%w: nothing was written", ErrProtocol)
	}
	if err := json.Unmarshal(text, message); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// parseResponse reads the answer to a request for op.
func parseResponse(text []byte, op Operation) (*Response, error) {
	var r Response
	if err := read(bytes.NewReader(text), &r); err != nil {
		return nil, err
	}
	switch {
	case r.APIVersion != Version:
		return nil, fmt.Errorf("%w: apiVersion is %.60q", ErrProtocol, r.APIVersion)
	case r.Error != "":
	case op == PublicKey && len(r.PublicKey) == 0:
		return nil, fmt.Errorf("%w: publicKey is missing", ErrProtocol)
	case op == Sign && len(r.Signature) == 0:
		return nil, fmt.Errorf("%w: signature is missing", ErrProtocol)
	}
	return &r, nil
}

// algorithm is one that authorities sign with.
type algorithm struct {
	name x509.SignatureAlgorithm
	hash crypto.Hash
}

// algorithms are those of each kind of key.
func algorithms(public crypto.PublicKey) []algorithm {
	switch public.(type) {
	case *ecdsa.PublicKey:
		return []algorithm{{x509.ECDSAWithSHA256, crypto.SHA256}, {x509.ECDSAWithSHA384, crypto.SHA384}, {x509.ECDSAWithSHA512, crypto.SHA512}}
	case *rsa.PublicKey:
		return []algorithm{{x509.SHA256WithRSA, crypto.SHA256}}
	case ed25519.PublicKey:
		return []algorithm{{x509.PureEd25519, 0}}
	}
	return nil
}

// digest returns the hash of message, nil if there is none.
func (a algorithm) digest(message []byte) []byte {
	if a.hash == 0 {
		return nil
	}
	h := a.hash.New()
	_, _ = h.Write(message) // never fails (hash.Hash)
	return h.Sum(nil)
}

// verify returns an error unless signature is public's of message.
func (a algorithm) verify(public crypto.PublicKey, message, signature []byte) error {
	ok := false
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, a.digest(message), signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, a.hash, a.digest(message), signature) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, message, signature)
	}
	if !ok {
		return errors.New("the signature is not of the authority's key")
	}
	return nil
}
