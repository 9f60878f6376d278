package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/keycommand"
)

const passphrase = "correct horse battery"

// asker counts how often it is asked.
type asker struct {
	says  string
	err   error
	asked []bool
}

func (a *asker) ask(_ context.Context, fresh bool) (string, error) {
	a.asked = append(a.asked, fresh)
	return a.says, a.err
}

func ring(t *testing.T, says string) (*Ring, *asker) {
	a := &asker{says: says}
	return New(t.Context(), a.ask), a
}

func newAuthority(t *testing.T) *ca.Authority { return must.Get(ca.New(ca.Options{}))(t) }

// encrypted returns an authority, and its text with an encrypted key.
func encrypted(t *testing.T) (*ca.Authority, []byte) {
	t.Helper()
	a := newAuthority(t)
	r, _ := ring(t, passphrase)
	return a, must.Get(must.Get(r.Encrypt(a, nil))(t).Encode())(t)
}

func signs(t *testing.T, a *ca.Authority) {
	t.Helper()
	if err := a.Unlock(); err != nil {
		t.Errorf("%v: %v", err, api.Hint(err))
	}
}

func TestEncrypt(t *testing.T) {
	a := newAuthority(t)
	r, asked := ring(t, passphrase)
	sealed := must.Get(r.Encrypt(a, nil))(t)
	text := must.Get(sealed.Encode())(t)
	if bytes.Contains(text, []byte("PRIVATE KEY")) || !bytes.Contains(text, []byte("-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24u")) {
		t.Fatalf("text %s", text)
	}
	if other := must.Get(must.Get(r.Encrypt(a, nil))(t).Encode())(t); bytes.Equal(other, text) {
		t.Error("the same twice: there is no salt")
	}
	expect.Equal(t, "asked for a new one", []bool{true}, asked.asked)
	// Who encrypts need not be asked again.
	signs(t, must.Get(r.Decode(text))(t))
	expect.Equal(t, "asked", 1, len(asked.asked))

	r, asked = ring(t, passphrase)
	read := must.Get(r.Decode(text))(t)
	if !read.Equal(a) || KindOf(read) != Encrypted || Describe(read) == "" {
		t.Errorf("read %v, %s", read, KindOf(read))
	}
	expect.Equal(t, "asked by who only reads", 0, len(asked.asked))
	signs(t, read)
	signs(t, must.Get(r.Decode(text))(t))
	successor := must.Get(r.Encrypt(newAuthority(t), read))(t)
	expect.Equal(t, "asked", []bool{false}, asked.asked)
	expect.Equal(t, "kind of the successor", Encrypted, KindOf(successor))

	// What is in the block is the authority as others have it: the program age decrypts it.
	block := must.Get(onlyBlock(text))(t)
	identity := must.Get(age.NewScryptIdentity(passphrase))(t)
	plain := new(bytes.Buffer)
	must.Get(plain.ReadFrom(must.Get(age.Decrypt(bytes.NewReader(block), identity))(t)))(t)
	expect.Equal(t, "what is encrypted", string(must.Get(a.Encode())(t)), plain.String())
}

// onlyBlock returns what the encrypted block of text holds.
func onlyBlock(text []byte) ([]byte, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == blockAge {
			return block.Bytes, nil
		}
	}
	return nil, errors.New("nothing is encrypted")
}

// with returns text with another encrypted block.
func with(t *testing.T, text, sealed []byte) []byte {
	old := pem.EncodeToMemory(&pem.Block{Type: blockAge, Bytes: must.Get(onlyBlock(text))(t)})
	return bytes.Replace(text, old, pem.EncodeToMemory(&pem.Block{Type: blockAge, Bytes: sealed}), 1)
}

func TestUnlockRefuses(t *testing.T) {
	a, text := encrypted(t)
	block := must.Get(onlyBlock(text))(t)
	if !bytes.Contains(block, []byte(" 17\n")) {
		t.Fatalf("the work factor is not 17: %.120q", block)
	}
	toKey := new(bytes.Buffer)
	w := must.Get(age.Encrypt(toKey, must.Get(age.GenerateX25519Identity())(t).Recipient()))(t)
	must.Get(w.Write(must.Get(a.Encode())(t)))(t)
	must.Do(t, w.Close())
	other := must.Get(seal(must.Get(newAuthority(t).Encode())(t), passphrase))(t)
	for name, c := range map[string]struct {
		text []byte
		says string
		is   error
		want string
	}{
		"wrong passphrase": {text, "incorrect horse", ErrPassphrase, "wrong"},
		// 2^30 would take 1 TiB and hours; the test would notice.
		"hostile work factor":  {with(t, text, bytes.Replace(block, []byte(" 17\n"), []byte(" 30\n"), 1)), passphrase, nil, "work factor too large"},
		"work factor above":    {with(t, text, bytes.Replace(block, []byte(" 17\n"), []byte(" 19\n"), 1)), passphrase, nil, "work factor too large"},
		"encrypted to a key":   {with(t, text, toKey.Bytes()), passphrase, nil, "decrypting"},
		"of another authority": {with(t, text, other), passphrase, ca.ErrMismatch, ""},
		"cut":                  {with(t, text, block[:len(block)-20]), passphrase, nil, "decrypting"},
		"nonsense":             {with(t, text, []byte("hello")), passphrase, nil, "decrypting"},
	} {
		r, asked := ring(t, c.says)
		locked := must.Get(r.Decode(c.text))(t)
		err := locked.Unlock()
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || c.is != ca.ErrMismatch && api.Hint(err) == "" {
			t.Errorf("%s: %v, hint %q", name, err, api.Hint(err))
			continue
		}
		expect.Equal(t, name+": asked", 1, len(asked.asked))
		if strings.Contains(err.Error()+api.Hint(err), c.says) {
			t.Errorf("%s: the passphrase is in %v", name, err)
		}
	}
	// Nobody can be asked.
	var none *Ring
	if err := must.Get(none.Decode(text))(t).Unlock(); !errors.Is(err, ErrLocked) {
		t.Errorf("without a ring: %v", err)
	}
	refuses := &asker{err: errors.New("no terminal")}
	r := New(t.Context(), refuses.ask)
	locked := must.Get(r.Decode(text))(t)
	for range 2 {
		if err := locked.Unlock(); !errors.Is(err, refuses.err) {
			t.Errorf("without an answer: %v", err)
		}
	}
	expect.Equal(t, "asked without an answer", 1, len(refuses.asked))
}

func TestNewPassphraseIsLong(t *testing.T) {
	r, _ := ring(t, "1234567")
	if _, err := r.Encrypt(newAuthority(t), nil); err == nil || api.Hint(err) == "" {
		t.Errorf("seven characters: %v", err)
	}
}

func TestDecodeRefusesBlocks(t *testing.T) {
	a := newAuthority(t)
	r, _ := ring(t, passphrase)
	for name, block := range map[string]*pem.Block{
		"unknown": {Type: "BOX"}, "no command": {Type: blockCommand, Bytes: []byte("{}")}, "no JSON": {Type: blockCommand, Bytes: []byte("rm -rf /")},
	} {
		if _, err := r.Decode(must.Get(a.Hold(block).Encode())(t)); !errors.Is(err, ca.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// envKey makes the test program a key command.
const envKey = "KEYS_TEST_KEY"

func TestMain(m *testing.M) {
	if file := os.Getenv(envKey); file != "" {
		text, err := os.ReadFile(file)
		if err == nil {
			var key *ecdsa.PrivateKey
			if key, err = x509.ParseECPrivateKey(text); err == nil {
				err = keycommand.Serve(key, os.Stdin, os.Stdout)
			}
		}
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestCommandHoldsKey(t *testing.T) {
	key := must.Get(ca.NewKey())(t)
	file := filepath.Join(t.TempDir(), "key")
	must.Do(t, os.WriteFile(file, must.Get(x509.MarshalECPrivateKey(key))(t), 0o600))
	t.Setenv(envKey, file)
	command := &keycommand.Command{Program: must.Get(os.Executable())(t), Args: []string{"--key=mesh"}}
	r, asked := ring(t, passphrase)
	var signer crypto.Signer = must.Get(r.Command(command))(t)
	a := must.Get(HoldByCommand(must.Get(ca.New(ca.Options{Key: signer}))(t), command))(t)
	text := must.Get(a.Encode())(t)
	read := must.Get(r.Decode(text))(t)
	signs(t, read)
	expect.Equal(t, "kind", Program, KindOf(read))
	expect.Equal(t, "command", command, must.Get(CommandOf(read))(t))
	expect.Equal(t, "asked", 0, len(asked.asked))
	if _, err := r.Encrypt(read, nil); !errors.Is(err, ca.ErrHeld) {
		t.Errorf("encrypted what is not here: %v", err)
	}
	// The program has another key by now.
	must.Do(t, os.WriteFile(file, must.Get(x509.MarshalECPrivateKey(must.Get(ca.NewKey())(t)))(t), 0o600))
	again, _ := ring(t, passphrase)
	if err := must.Get(again.Decode(text))(t).Unlock(); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another key: %v", err)
	}
}

func TestFromFile(t *testing.T) {
	dir := t.TempDir()
	for i, c := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{passphrase + "\n", 0o600, ""}, {passphrase + "\r\n", 0o400, ""}, {passphrase, 0o440, ""},
		{passphrase, 0o644, "open to other users"}, {passphrase, 0o620, "open to other users"},
		{"", 0o600, "empty"}, {"\n", 0o600, "empty"}, {"one\ntwo\n", 0o600, "more than one line"}, {strings.Repeat("x", maxPassphrase+1), 0o600, "more than"},
	} {
		path := filepath.Join(dir, fmt.Sprint(i))
		must.Do(t, os.WriteFile(path, []byte(c.text), 0o600))
		must.Do(t, os.Chmod(path, c.mode))
		got, err := FromFile(path)
		if c.want == "" && (err != nil || got != passphrase) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.20q with mode %o: %q, %v, want %q", c.text, c.mode, got, err, c.want)
		}
		if err != nil && len(c.text) > 2 && strings.Contains(err.Error(), c.text) {
			t.Errorf("the passphrase is in %v", err)
		}
	}
	if _, err := FromFile(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestFromProgram(t *testing.T) {
	write := func(script string) string {
		path := filepath.Join(t.TempDir(), "askpass")
		must.Do(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
		return path
	}
	got := must.Get(FromProgram(t.Context(), write(`[ "$1" = "which? " ] && echo "correct horse battery"`), "which? "))(t)
	expect.Equal(t, "passphrase", passphrase, got)
	for name, script := range map[string]string{"refuses": "exit 1", "fails": "echo x; exit 1", "says nothing": "true", "says too much": "yes"} {
		if got, err := FromProgram(t.Context(), write(script), "?"); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}
