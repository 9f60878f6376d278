package keycommand

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

// envKey makes the test program a key command: it names a file with the key.
const envKey = "KEYCOMMAND_TEST_KEY"

func TestMain(m *testing.M) {
	if os.Getenv(envKey) != "" {
		os.Exit(program(os.Getenv(envKey), os.Args[1]))
	}
	os.Exit(m.Run())
}

// program holds the key in a file, and behaves as mode says.
func program(file, mode string) int {
	switch mode {
	case "silent":
		return 0
	case "fails":
		fmt.Fprintln(os.Stderr, "looking for the token\nno token \x1b[31mis there")
		return 3
	case "refuses":
		fmt.Println(`{"apiVersion":"` + Version + `","error":"not on a Sunday"}`)
		return 1
	case "rants":
		fmt.Println(`{"apiVersion":"` + Version + `","error":"` + strings.Repeat("no ", maxMessage/4) + `"}`)
		return 1
	case "talks":
		fmt.Println("Welcome to the key service!")
		return 0
	case "floods":
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("x"), 10*maxMessage))
		return 0
	case "other version":
		fmt.Println(`{"apiVersion":"v2","signature":"AAAA"}`)
		return 0
	case "hangs":
		time.Sleep(time.Hour) // longer than any test
	case "lies":
		fmt.Println(`{"apiVersion":"` + Version + `","publicKey":"AAAA","signature":"AAAA"}`)
		return 0
	}
	text, err := os.ReadFile(file)
	if err == nil {
		var key any
		if key, err = x509.ParsePKCS8PrivateKey(text); err == nil {
			err = Serve(key.(crypto.Signer), os.Stdin, os.Stdout)
		}
	}
	if err != nil {
		return 1
	}
	return 0
}

// newCommand returns this program as a command with a key.
func newCommand(t *testing.T, key crypto.Signer, mode string) *Command {
	t.Helper()
	file := t.TempDir() + "/key"
	must.Do(t, os.WriteFile(file, must.Get(x509.MarshalPKCS8PrivateKey(key))(t), 0o600))
	t.Setenv(envKey, file)
	return &Command{Program: must.Get(os.Executable())(t), Args: []string{mode}}
}

func TestCommandSigns(t *testing.T) {
	for name, c := range map[string]struct {
		key  crypto.Signer
		hash crypto.Hash
	}{
		"P-256": {pki.ECKey(t, elliptic.P256()), crypto.SHA256}, "P-384": {pki.ECKey(t, elliptic.P384()), crypto.SHA384},
		"RSA": {pki.RSAKey(t, 2048), crypto.SHA256}, "Ed25519": {pki.Ed25519Key(t), 0},
	} {
		t.Run(name, func(t *testing.T) {
			key := must.Get(newCommand(t, c.key, "").Key(t.Context()))(t)
			if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(c.key.Public()) {
				t.Fatal("it has another public key")
			}
			// The library verifies what it gets.
			template := &x509.CertificateRequest{}
			request := must.Get(x509.ParseCertificateRequest(must.Get(x509.CreateCertificateRequest(rand.Reader, template, key))(t)))(t)
			must.Do(t, request.CheckSignature())
		})
	}
}

func TestCommandFails(t *testing.T) {
	key := pki.ECKey(t, elliptic.P256())
	for mode, want := range map[string]string{
		"silent": "nothing was written", "fails": "exit status 3: no token ?[31mis there", "refuses": "not on a Sunday", "rants": "no no no", "talks": "does not speak",
		"floods": "more than", "other version": `apiVersion is "v2"`, "lies": "not of the authority's key",
	} {
		command := newCommand(t, key, mode)
		_, err := command.KeyOf(t.Context(), key.Public()).SignMessage(nil, []byte("hello"), crypto.SHA256)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), command.Program) || len(err.Error()) > 2*maxStderr {
			t.Errorf("%s: %.200v, want %q", mode, err, want)
		}
	}
	// Another key than that of the authority's certificate.
	other := pki.ECKey(t, elliptic.P256())
	_, err := newCommand(t, other, "").KeyOf(t.Context(), key.Public()).SignMessage(nil, []byte("hello"), crypto.SHA256)
	if err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another key: %v", err)
	}
	if _, err := newCommand(t, key, "lies").Key(t.Context()); err == nil {
		t.Error("a public key that is none")
	}
	if _, err := (&Command{Program: "no-such-program-of-ours"}).Key(t.Context()); err == nil || api.Hint(err) == "" {
		t.Errorf("no program: %v", err)
	}
	if _, err := newCommand(t, key, "").KeyOf(t.Context(), key.Public()).Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil {
		t.Error("signed a hash without its message")
	}
}

func TestCommandEnds(t *testing.T) {
	command := newCommand(t, pki.ECKey(t, elliptic.P256()), "hangs")
	command.Timeout = time.Second / 2
	if _, err := command.Key(t.Context()); err == nil || !strings.Contains(err.Error(), "within 500ms") || api.Hint(err) == "" {
		t.Errorf("at its timeout: %v", err)
	}
	command.Timeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := command.Key(ctx)
		done <- err
	}()
	cancel()
	if err := expect.Within(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestServeRefuses(t *testing.T) {
	key := pki.ECKey(t, elliptic.P256())
	public := must.Get(x509.MarshalPKIXPublicKey(key.Public()))(t)
	for name, request := range map[string]Request{
		"version": {APIVersion: "v7", Operation: PublicKey}, "operation": {APIVersion: Version, Operation: "export"},
		"algorithm": {APIVersion: Version, Operation: Sign, PublicKey: public, Algorithm: "MD5-RSA"},
		"key":       {APIVersion: Version, Operation: Sign, PublicKey: public[1:], Algorithm: "ECDSA-SHA256"},
	} {
		var out bytes.Buffer
		text := must.Get(json.Marshal(request))(t)
		if err := Serve(key, bytes.NewReader(text), &out); err == nil {
			t.Errorf("%s: served", name)
		}
		response, err := parseResponse(out.Bytes(), request.Operation)
		if err != nil || response.Error == "" || response.Signature != nil {
			t.Errorf("%s: %v, %v", name, response, err)
		}
	}
}

// What a program says is not trusted: whatever it is, it is refused or it is a signature of the key.
func FuzzResponse(f *testing.F) {
	key := must.Get(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(f)
	good := must.Get(crypto.SignMessage(key, rand.Reader, []byte("hello"), crypto.SHA256))(f)
	f.Add(must.Get(json.Marshal(Response{APIVersion: Version, Signature: good}))(f))
	f.Add(must.Get(json.Marshal(Response{APIVersion: Version, Error: "no"}))(f))
	f.Add([]byte(`{"apiVersion":"` + Version + `","publicKey":"AAAA"}`))
	f.Add([]byte(" \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, op := range []Operation{PublicKey, Sign} {
			response, err := parseResponse(text, op)
			if (response == nil) != (err != nil) {
				t.Fatalf("%v, %v", response, err)
			}
			if err != nil || response.Error != "" {
				continue
			}
			if op == Sign && len(response.Signature) == 0 || op == PublicKey && len(response.PublicKey) == 0 {
				t.Fatalf("accepted without an answer: %+v", response)
			}
			_ = algorithms(key.Public())[0].verify(key.Public(), []byte("hello"), response.Signature)
		}
	})
}

// What somebody asks a program is bounded and answered, whatever it is.
func FuzzServe(f *testing.F) {
	key := must.Get(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(f)
	public := must.Get(x509.MarshalPKIXPublicKey(key.Public()))(f)
	f.Add(must.Get(json.Marshal(Request{APIVersion: Version, Operation: PublicKey}))(f))
	f.Add(must.Get(json.Marshal(Request{APIVersion: Version, Operation: Sign, PublicKey: public, Algorithm: "ECDSA-SHA256", Message: []byte("hello")}))(f))
	f.Fuzz(func(t *testing.T, text []byte) {
		var out bytes.Buffer
		err := Serve(key, bytes.NewReader(text), &out)
		var response Response
		if json.Unmarshal(out.Bytes(), &response) != nil || (response.Error != "") != (err != nil) {
			t.Fatalf("%q: %v", out.Bytes(), err)
		}
	})
}
