package authority

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/keycommand"
)

// envKey makes the test program a key command: it names a file with a key.
const envKey = "AUTHORITY_TEST_KEY"

func TestMain(m *testing.M) {
	if file := os.Getenv(envKey); file != "" && len(os.Args) > 1 && os.Args[1] == "hold" {
		text, err := os.ReadFile(file)
		if err == nil {
			var key any
			if key, err = x509.ParsePKCS8PrivateKey(text); err == nil {
				err = keycommand.Serve(key.(crypto.Signer), os.Stdin, os.Stdout)
			}
		}
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// newKeyCommand returns a program that holds a new key of the test's.
func newKeyCommand(t *testing.T) *keycommand.Command {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	must.Do(t, os.WriteFile(file, must.Get(x509.MarshalPKCS8PrivateKey(must.Get(ca.NewKey())(t)))(t), 0o600))
	t.Setenv(envKey, file)
	return &keycommand.Command{Program: must.Get(os.Executable())(t), Args: []string{"hold"}}
}

// said is a user who says a passphrase, as often as asked.
func said(t *testing.T, passphrase string, asked *int) *keys.Ring {
	return keys.New(t.Context(), func(context.Context, bool) (string, error) {
		*asked++
		return passphrase, nil
	})
}

// inTheClear returns the files of dir in which a key lies in the open.
func inTheClear(t *testing.T, dir string) (found []string) {
	t.Helper()
	for _, name := range names(t, dir) {
		if text := must.Get(os.ReadFile(filepath.Join(dir, name)))(t); bytes.Contains(text, []byte("PRIVATE KEY")) {
			found = append(found, name)
		}
	}
	return found
}

func TestInitEncrypts(t *testing.T) {
	const first, second = "correct horse battery", "staple staple staple"
	var asked int
	o := newOperator(t, newCluster(t, "uid-1"))
	encrypt := InitOptions{Source: Source{Encrypt: true}}
	a := o.init(InitOptions{}, InitResult{File: Path(o.dir), Created: true, Changed: true})
	o.keys = said(t, first, &asked)
	backup := filepath.Join(o.dir, "authority-20200101T000000.000000Z.pem")
	must.Do(t, os.WriteFile(backup, o.file(), 0o600))

	// Who had the file open sees what is left of it.
	old := must.Get(os.Open(Path(o.dir)))(t)
	defer func() { _ = old.Close() }()
	result := must.Get(o.run(encrypt))(t)
	if !result.Changed || result.Created || !result.Authority.Equal(a) || keys.KindOf(result.Authority) != keys.Encrypted {
		t.Errorf("encrypted: %+v", result)
	}
	expect.Equal(t, "files with a key in the open", []string{filepath.Base(backup)}, inTheClear(t, o.dir))
	if runtime.GOOS != "windows" {
		info := must.Get(os.Stat(Path(o.dir)))(t)
		expect.Equal(t, "mode", os.FileMode(0o600), info.Mode().Perm())
		rest := must.Get(io.ReadAll(old))(t)
		if len(bytes.Trim(rest, "\x00")) > 0 {
			t.Error("what was in the old file is still there")
		}
	}
	expect.Equal(t, "asked", 1, asked)

	// Nobody is asked where no key is needed, nor about what is done already.
	asked = 0
	o.keys = said(t, first, &asked)
	o.unchanged(func() {
		must.Get(o.run(encrypt))(t)
		must.Get(o.run(InitOptions{}))(t)
		must.Get(Load(t.Context(), o.location()))(t)
		must.Get(o.open())(t)
	})
	expect.Equal(t, "asked without need", 0, asked)
	for range 2 {
		issuer := must.Get(Open(t.Context(), o.location()))(t)
		must.Get(issuer.(*ca.Authority).Issue(ca.LeafRequest{Identity: testIdentity}))(t)
	}
	expect.Equal(t, "asked for two certificates", 1, asked)

	// Another passphrase.
	var ignored int
	o.keys = said(t, "something else", &ignored)
	o.unchanged(func() {
		if _, err := o.run(InitOptions{NewKeys: said(t, second, &ignored)}); !errors.Is(err, keys.ErrPassphrase) {
			t.Errorf("with a wrong passphrase: %v", err)
		}
		if _, err := Open(t.Context(), o.location()); !errors.Is(err, keys.ErrPassphrase) {
			t.Errorf("opened with a wrong passphrase: %v", err)
		}
	})
	o.keys = said(t, first, &ignored)
	must.Get(o.run(InitOptions{NewKeys: said(t, second, &ignored)}))(t)
	o.keys = said(t, second, &ignored)
	must.Get(Open(t.Context(), o.location()))(t)
	o.keys = said(t, first, &ignored)
	if _, err := Open(t.Context(), o.location()); !errors.Is(err, keys.ErrPassphrase) {
		t.Errorf("opened with the old passphrase: %v", err)
	}
	// An operator with nobody to ask.
	o.keys = keys.New(t.Context(), func(context.Context, bool) (string, error) { return "", keys.ErrLocked })
	if _, err := Open(t.Context(), o.location()); !errors.Is(err, keys.ErrLocked) {
		t.Errorf("opened without a passphrase: %v", err)
	}
}

func TestInitRefusesKeys(t *testing.T) {
	var asked int
	o := newOperator(t, newCluster(t, "uid-1"))
	o.keys = said(t, "correct horse battery", &asked)
	command := newKeyCommand(t)
	o.refused(InitOptions{NewKeys: o.keys}, ErrNoAuthority, "--encrypt")
	o.refused(InitOptions{Source: Source{Encrypt: true}, Store: StoreCluster}, nil, "this machine alone")
	o.refused(InitOptions{Source: Source{Command: command}, Store: StoreCluster}, nil, "this machine alone")
	o.refused(InitOptions{Source: Source{Command: command, Encrypt: true}}, nil, "either")
	o.init(InitOptions{Store: StoreCluster}, InitResult{File: Path(o.dir), InCluster: true, Created: true, Changed: true})
	o.refused(InitOptions{Source: Source{Encrypt: true}}, nil, "kubectl delete secret")
	o.refused(InitOptions{Source: Source{Command: command}}, ErrExists, "--force")
	expect.Equal(t, "asked", 0, asked)
}

var testIdentity = identity.ID{TrustDomain: ca.DefaultTrustDomain, Namespace: "shop", ServiceAccount: "cart"}

// TestEncryptInterrupted: an error at any step leaves the authority with its key in the open or encrypted, and a
// second attempt succeeds.
func TestEncryptInterrupted(t *testing.T) {
	var asked int
	a := newTestAuthority(t, ca.DefaultTrustDomain)
	ring := said(t, "correct horse battery", &asked)
	sealed := must.Get(ring.Encrypt(a, nil))(t)
	for stop, done := 1, false; !done; stop++ {
		dir := filepath.Join(t.TempDir(), "authority")
		must.Do(t, CreateDir(dir, a))
		step := 0
		s := &dirStore{dir: dir, keys: ring, step: func(string) error {
			if step++; step == stop {
				return errInterrupted
			}
			return nil
		}}
		_, err := s.reseal(sealed)
		done = err == nil
		if err != nil && !errors.Is(err, errInterrupted) {
			t.Fatalf("step %d: %v", stop, err)
		}
		found := must.Get((&dirStore{dir: dir, keys: ring}).get(current))(t)
		if !found.Equal(a) {
			t.Errorf("step %d: found %v", stop, found)
		}
		must.Do(t, found.Unlock())
		must.Get((&dirStore{dir: dir, keys: ring}).reseal(sealed))(t)
		expect.Equal(t, fmt.Sprintf("step %d: files afterwards", stop), []string{fileName}, names(t, dir))
		expect.Equal(t, fmt.Sprintf("step %d: in the open", stop), []string(nil), inTheClear(t, dir))
		if done && stop <= 5 || stop > 20 {
			t.Fatalf("%d steps", stop)
		}
	}
}

// rotate replaces the authority and returns the new one.
func (o *operator) rotate(source Source) (*ca.Authority, error) {
	ctx := o.t.Context()
	r := o.mustOpen(Idle)
	if err := r.Begin(ctx, source); err != nil {
		return nil, err
	}
	for done := false; !done; {
		var err error
		if done, err = o.advance(must.Get(o.open())(o.t)); err != nil {
			return nil, err
		}
	}
	a, err := Open(ctx, o.location())
	if err != nil {
		return nil, err
	}
	return a.(*ca.Authority), nil
}

func TestRotationKeepsKeysEncrypted(t *testing.T) {
	var asked int
	o := newOperator(t, newCluster(t, "uid-1"))
	o.keys = said(t, "correct horse battery", &asked)
	must.Get(o.run(InitOptions{Source: Source{Encrypt: true}}))(t)
	asked = 0
	o.keys = said(t, "correct horse battery", &asked)
	a := must.Get(o.rotate(Source{}))(t)
	expect.Equal(t, "kind", keys.Encrypted, keys.KindOf(a))
	expect.Equal(t, "asked", 1, asked)
	expect.Equal(t, "files with a key in the open", []string(nil), inTheClear(t, o.dir))
}

func TestKeyCommand(t *testing.T) {
	var asked int
	o := newOperator(t, newCluster(t, "uid-1"))
	o.keys = said(t, "correct horse battery", &asked)
	command := newKeyCommand(t)
	options := InitOptions{Source: Source{Command: command}}
	first := must.Get(o.run(options))(t).Authority
	expect.Equal(t, "kind", keys.Program, keys.KindOf(first))
	expect.Equal(t, "files with a key", []string(nil), inTheClear(t, o.dir))
	o.unchanged(func() { must.Get(o.run(options))(t) })
	other := *command
	other.Args = []string{"hold", "another"}
	o.refused(InitOptions{Source: Source{Command: &other}}, ErrExists, "--force")
	if _, err := o.run(InitOptions{Source: Source{Encrypt: true}}); err == nil {
		t.Error("encrypted a key that is not here")
	}

	issuer := must.Get(Open(t.Context(), o.location()))(t).(*ca.Authority)
	must.Get(issuer.Issue(ca.LeafRequest{Identity: testIdentity}))(t)
	revoked := must.Get(Revoke(t.Context(), o.location(), []ca.Revocation{{Serial: "abcd", At: time.Now().Truncate(time.Second), Until: time.Now().Add(time.Hour).Truncate(time.Second)}}))(t)
	if revoked.Revocations() == nil {
		t.Error("nothing is revoked")
	}

	// The successor needs a key, and may have the same one; or one in a file.
	if _, err := o.rotate(Source{}); err == nil || !strings.Contains(err.Error(), "key held by") {
		t.Errorf("rotated without a key: %v", err)
	}
	second := must.Get(o.rotate(Source{Command: &other}))(t)
	if second.Equal(first) || keys.KindOf(second) != keys.Program {
		t.Errorf("rotated to %v", second)
	}
	third := must.Get(o.rotate(Source{Encrypt: true}))(t)
	expect.Equal(t, "kind", keys.Encrypted, keys.KindOf(third))
	expect.Equal(t, "asked", 1, asked)

	// The certificate of an authority that exists, whose key a program holds.
	p := newOperator(t, newCluster(t, "uid-2"))
	p.keys = o.keys
	imported := must.Get(p.run(InitOptions{Source: Source{Command: command, CertPEM: first.Bundle()}}))(t).Authority
	if !imported.Equal(first) {
		t.Errorf("imported %v", imported)
	}
	if _, err := p.run(InitOptions{Force: true, Source: Source{Command: command, CertPEM: third.Bundle()}}); !errors.Is(err, ca.ErrMismatch) {
		t.Errorf("imported with another key: %v", err)
	}
}
