package keycommand

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// DefaultTimeout is how long a program may take for one request: long enough to find a token and
// to type a PIN.
const DefaultTimeout = time.Minute

const (
	// maxStderr bounds what is kept of a program's standard error, in bytes, and what is shown of its error, in characters.
	maxStderr = 4 << 10
	// killDelay is how long a program's children may hold its output after it has ended.
	killDelay = 2 * time.Second
)

// Command is a program that holds a key.
type Command struct {
	// Program is an absolute path, or a name that is looked for in $PATH each time.
	Program string `json:"program"`
	// Args are given to it as they are.
	Args []string `json:"args,omitempty"`
	// Timeout bounds each request; DefaultTimeout if zero.
	Timeout time.Duration `json:"-"`
}

// String returns the command line.
func (c *Command) String() string { return strings.Join(append([]string{c.Program}, c.Args...), " ") }

// Equal reports whether both are the same command line.
func (c *Command) Equal(d *Command) bool {
	return c.Program == d.Program && slices.Equal(c.Args, d.Args)
}

// Key asks for the public key, and returns the key. Requests end with ctx.
func (c *Command) Key(ctx context.Context) (*Key, error) {
	response, err := c.ask(ctx, &Request{Operation: PublicKey})
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(response.PublicKey)
	if err == nil && algorithms(public) == nil {
		err = fmt.Errorf("keys of type %T cannot be used", public)
	}
	if err != nil {
		return nil, c.wrap(fmt.Errorf("reading its public key: %w", err))
	}
	return c.KeyOf(ctx, public), nil
}

// KeyOf returns the key that belongs to public, and asks nothing.
func (c *Command) KeyOf(ctx context.Context, public crypto.PublicKey) *Key {
	return &Key{ctx: ctx, command: *c, public: public}
}

// Key is a key that a program holds. It implements crypto.MessageSigner, and is safe for concurrent use.
type Key struct {
	// ctx is that of the whole program: crypto.Signer has none for each call.
	ctx     context.Context
	command Command
	public  crypto.PublicKey
}

// Public is part of crypto.Signer.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign is part of crypto.Signer. It fails but for Ed25519, as many programs hash by themselves.
func (k *Key) Sign(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("signing a hash whose message is unknown")
	}
	return k.SignMessage(rand, message, opts)
}

// SignMessage is part of crypto.MessageSigner. What the program returns is verified.
func (k *Key) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	known := algorithms(k.public)
	i := slices.IndexFunc(known, func(a algorithm) bool { return a.hash == opts.HashFunc() })
	if i < 0 {
		return nil, fmt.Errorf("keys of type %T do not sign with %v", k.public, opts.HashFunc())
	}
	public, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		return nil, err
	}
	response, err := k.command.ask(k.ctx, &Request{Operation: Sign, PublicKey: public, Algorithm: known[i].name.String(),
		Message: message, Digest: known[i].digest(message)})
	if err != nil {
		return nil, err
	}
	if err := known[i].verify(k.public, message, response.Signature); err != nil {
		return nil, api.WithHint(k.command.wrap(err), "it must sign with the key of the authority's certificate")
	}
	return response.Signature, nil
}

func (c *Command) wrap(err error) error { return fmt.Errorf("key command %s: %w", c.Program, err) }

// ask runs the program for one request.
func (c *Command) ask(ctx context.Context, request *Request) (*Response, error) {
	request.APIVersion = Version
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	timeout := cmp.Or(c.Timeout, DefaultTimeout)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, c.Program, c.Args...)
	cmd.WaitDelay = killDelay
	out, said := bounded{limit: maxMessage + 1}, bounded{limit: maxStderr}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(append(text, '\n')), &out, &said
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, api.WithHint(c.wrap(fmt.Errorf("it has not answered within %v", timeout)), "is a token missing, or does it wait for a PIN?")
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, exec.ErrDot):
		return nil, api.WithHint(c.wrap(err), "the authority's key is held by this program: install it, and put it into $PATH")
	}
	response, badAnswer := parseResponse(out.Bytes(), request.Operation)
	switch {
	case badAnswer == nil && response.Error != "":
		return nil, c.wrap(fmt.Errorf("%.*s", maxStderr, api.OneLine(response.Error)))
	case err != nil:
		// What it has said tells more than its exit code.
		if last := lastLine(said.String()); last != "" {
			err = fmt.Errorf("%w: %s", err, last)
		}
		return nil, c.wrap(err)
	case badAnswer != nil:
		return nil, api.WithHint(c.wrap(badAnswer), "docs/OPERATIONS.md of kubectl-gateway has the protocol, and examples/keycommand a program")
	}
	return response, nil
}

// lastLine returns the last line with words in text.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return api.OneLine(lines[len(lines)-1])
}

// bounded keeps the first bytes that are written to it, up to limit, and lets the rest go.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	_, _ = b.Buffer.Write(p[:min(len(p), b.limit-b.Len())]) // never fails (bytes.Buffer)
	return len(p), nil
}
