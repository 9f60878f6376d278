// Package keys opens the private keys of authorities that do not lie in the open: those that are
// encrypted with a passphrase, in the format of age (age-encryption.org/v1), and those that a program
// holds (package keycommand). In the file of an authority a PEM block stands in the place of its key.
package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"filippo.io/age"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/keycommand"
)

// Types of the PEM blocks. That of age is its own armor; in it is the whole authority with its key
// in the open, so that nobody can put other certificates beside the key.
const (
	blockAge     = "AGE ENCRYPTED FILE"
	blockCommand = "KUBECTL-GATEWAY KEY COMMAND"
)

const (
	// workFactor is the logarithm of scrypt's N (RFC 7914): 128 MiB of memory, and about half a
	// second on a core of 2020. With r = 8 and p = 1 it is what OWASP recommends.
	workFactor = 17
	// maxWorkFactor bounds what is spent on a file that somebody else may have written: 256 MiB and
	// about a second. It is what the program age writes.
	maxWorkFactor = 18
	// MinPassphrase is the least length of a new passphrase, in bytes.
	MinPassphrase = 8
	// maxPassphrase bounds what a file or a program says, in bytes.
	maxPassphrase = 4 << 10
	// maxPlain bounds what is encrypted, in bytes.
	maxPlain = 1 << 20
	// maxKnown bounds the authorities that are remembered. A rotation has two.
	maxKnown = 8
)

var (
	// ErrLocked means that a key is encrypted, and that nobody can be asked for the passphrase.
	ErrLocked = errors.New("the key of the authority is encrypted, and there is no passphrase")
	// ErrPassphrase means that the passphrase is another one.
	ErrPassphrase = errors.New("the passphrase of the authority is wrong")
)

// Kind says how a key is kept.
type Kind string

const (
	// Open keys lie in the open, beside their certificates.
	Open Kind = "open"
	// Encrypted keys need a passphrase.
	Encrypted Kind = "encrypted"
	// Program keys are held by a program.
	Program Kind = "command"
)

// KindOf returns how the key of a is kept.
func KindOf(a *ca.Authority) Kind {
	switch held := a.Held(); {
	case held == nil:
		return Open
	case held.Type == blockCommand:
		return Program
	}
	return Encrypted
}

// Describe says in words how the key of a is kept, "" if it lies in the open.
func Describe(a *ca.Authority) string {
	switch KindOf(a) {
	case Encrypted:
		return "key encrypted with a passphrase"
	case Program:
		if command, err := CommandOf(a); err == nil {
			return "key held by " + command.Program
		}
		return "key held by a program"
	}
	return ""
}

// CommandOf returns the program that holds the key of a.
func CommandOf(a *ca.Authority) (*keycommand.Command, error) { return parseCommand(a.Held()) }

func parseCommand(block *pem.Block) (*keycommand.Command, error) {
	var command keycommand.Command
	if err := json.Unmarshal(block.Bytes, &command); err != nil || command.Program == "" {
		return nil, fmt.Errorf("%w: it does not say which program holds its key", ca.ErrDamaged)
	}
	return &command, nil
}

// Ask returns a passphrase. With fresh it is a new one, which is to be said twice.
type Ask func(ctx context.Context, fresh bool) (string, error)

// Ring opens keys. It asks for a passphrase once at most, and remembers it; a key is decrypted once. It is
// safe for concurrent use. A nil Ring reads authorities, and opens no encrypted key.
type Ring struct {
	// ctx is that of the whole command: crypto.Signer has none for each call.
	ctx context.Context
	ask Ask

	mu         sync.Mutex
	asked      bool
	passphrase string
	err        error
	// known are authorities by the SHA-256 of their text, the newest last.
	known []known
}

type known struct {
	text      [sha256.Size]byte
	authority *ca.Authority
}

// New returns a Ring that works until ctx ends.
func New(ctx context.Context, ask Ask) *Ring { return &Ring{ctx: ctx, ask: ask} }

// Decode reads what [ca.Authority.Encode] wrote. A key that is not in the open is opened when the
// authority signs for the first time, or by [ca.Authority.Unlock].
func (r *Ring) Decode(text []byte) (*ca.Authority, error) {
	sum := sha256.Sum256(text)
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if i := slices.IndexFunc(r.known, func(k known) bool { return k.text == sum }); i >= 0 {
			return r.known[i].authority, nil
		}
	}
	a, err := ca.DecodeHeld(text, r.open)
	if err != nil || a.Held() == nil {
		return a, err
	}
	switch a.Held().Type {
	case blockAge:
	case blockCommand:
		if _, err := CommandOf(a); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%w: a PEM block %q stands in the place of its key", ca.ErrDamaged, api.OneLine(a.Held().Type))
	}
	if r != nil {
		r.remember(sum, a)
	}
	return a, nil
}

func (r *Ring) remember(sum [sha256.Size]byte, a *ca.Authority) {
	r.known = append(r.known, known{sum, a})
	r.known = r.known[max(0, len(r.known)-maxKnown):]
}

// open is a ca.Opener.
func (r *Ring) open(about *ca.Authority, block *pem.Block) (crypto.Signer, error) {
	if block.Type == blockCommand {
		command, err := parseCommand(block)
		if err != nil {
			return nil, err
		}
		return command.KeyOf(r.context(), about.Certificate().PublicKey), nil
	}
	passphrase, err := r.get(false)
	if err != nil {
		return nil, err
	}
	return unseal(block.Bytes, passphrase, about)
}

func (r *Ring) context() context.Context {
	if r == nil {
		return context.Background()
	}
	return r.ctx
}

// get returns the passphrase, and asks for it unless that was done.
func (r *Ring) get(fresh bool) (string, error) {
	if r == nil {
		return "", ErrLocked
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked {
		r.asked = true
		r.passphrase, r.err = r.ask(r.ctx, fresh)
		if r.err == nil && fresh && len(r.passphrase) < MinPassphrase {
			r.err = api.WithHint(fmt.Errorf("the passphrase is shorter than %d characters", MinPassphrase), "take several words that nobody would guess")
		}
	}
	return r.passphrase, r.err
}

// Command returns the key that a program holds.
func (r *Ring) Command(c *keycommand.Command) (crypto.Signer, error) { return c.Key(r.context()) }

// HoldByCommand returns a with a text that names the program which holds its key.
func HoldByCommand(a *ca.Authority, c *keycommand.Command) (*ca.Authority, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding the key command: %w", err)
	}
	return a.Hold(&pem.Block{Type: blockCommand, Bytes: text}), nil
}

// Encrypt returns a with a text in which its key is encrypted. The passphrase is asked for as a new one, unless
// like, which may be nil, is encrypted: then it is that one's.
func (r *Ring) Encrypt(a, like *ca.Authority) (*ca.Authority, error) {
	known := like != nil && KindOf(like) == Encrypted
	if known {
		if err := like.Unlock(); err != nil {
			return nil, err
		}
	}
	passphrase, err := r.get(!known)
	if err != nil {
		return nil, err
	}
	plain, err := a.Open()
	if err != nil {
		return nil, fmt.Errorf("encrypting the key: %w", err)
	}
	sealed, err := seal(plain, passphrase)
	if err != nil {
		return nil, fmt.Errorf("encrypting the key: %w", err)
	}
	// What cannot be decrypted would be lost.
	if _, err := unseal(sealed, passphrase, a); err != nil {
		return nil, fmt.Errorf("trying what was encrypted: %w", err)
	}
	a = a.Hold(&pem.Block{Type: blockAge, Bytes: sealed})
	text, err := a.Encode()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remember(sha256.Sum256(text), a)
	return a, nil
}

func seal(plain []byte, passphrase string) ([]byte, error) {
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	recipient.SetWorkFactor(workFactor)
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipient)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	return out.Bytes(), err
}

// unseal decrypts the key of the authority that about is.
func unseal(sealed []byte, passphrase string, about *ca.Authority) (crypto.Signer, error) {
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	identity.SetMaxWorkFactor(maxWorkFactor)
	r, err := age.Decrypt(bytes.NewReader(sealed), identity)
	if none, ok := errors.AsType[*age.NoIdentityMatchError](err); ok && slices.Contains(none.StanzaTypes, "scrypt") {
		return nil, api.WithHint(ErrPassphrase, "try again; without it the key is lost: 'kubectl gateway init-ca --force' makes a new authority")
	}
	var plain []byte
	if err == nil {
		plain, err = io.ReadAll(io.LimitReader(r, maxPlain))
	}
	if err != nil {
		return nil, api.WithHint(fmt.Errorf("decrypting the key of the authority: %w", err),
			fmt.Sprintf("it is encrypted by something else, or damaged; what is read is a passphrase with a work factor of at most %d", maxWorkFactor))
	}
	return ca.KeyOf(plain, about)
}
