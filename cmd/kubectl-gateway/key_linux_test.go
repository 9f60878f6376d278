package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pty"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
)

// typist is a user at a terminal on which commands run, one after the other.
type typist struct {
	t             *testing.T
	user, program *os.File
	server        *apiServer
	// stdout has what the last command has printed.
	stdout strings.Builder
	code   chan int
}

func newTypist(t *testing.T) *typist {
	user, program := pty.Open(t)
	t.Setenv(envPassphraseFile, "")
	t.Setenv(envAskPass, "")
	server := &apiServer{objects: map[string]string{"/api/v1/namespaces/kube-system": kubeSystem}}
	return &typist{t: t, user: user, program: program, server: server, code: make(chan int, 1)}
}

// start begins a command.
func (u *typist) start(ctx context.Context, args ...string) {
	u.stdout.Reset()
	go func() {
		code := runOn(u.t, ctx, u.server, genericiooptions.IOStreams{In: u.program, Out: &u.stdout, ErrOut: u.program}, args...)
		_, _ = io.WriteString(u.program, "it ended")
		u.code <- code
	}()
}

// answers types an answer to each question, and returns the exit code and what the terminal has shown.
func (u *typist) answers(pairs ...string) (code int, shown string) {
	u.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		shown += until(u.t, u.user, pairs[i])
		must.Get(io.WriteString(u.user, pairs[i+1]))(u.t)
	}
	shown += until(u.t, u.user, "it ended")
	return expect.Within(u.t, u.code), shown
}

// settings are those of the terminal.
func (u *typist) settings() unix.Termios {
	return *must.Get(unix.IoctlGetTermios(int(u.program.Fd()), unix.TCGETS))(u.t)
}

func TestPassphraseOnATerminal(t *testing.T) {
	const first, second = "correct horse battery", "staple staple staple"
	u := newTypist(t)
	before := u.settings()
	dir := filepath.Join(t.TempDir(), "authority")
	const asked, fresh, again = "passphrase of the authority: ", "new passphrase: ", "the same again: "

	u.start(t.Context(), "init-ca", "--encrypt", "--dir="+dir)
	code, shown := u.answers("new "+asked, first+"\r", again, first+"\r")
	if code != 0 || !strings.Contains(u.stdout.String(), "created") || !strings.Contains(u.stdout.String(), "key encrypted with a passphrase") {
		t.Fatalf("exit code %d, %q, %q", code, shown, u.stdout.String())
	}
	if strings.Contains(shown, first) {
		t.Errorf("the terminal shows the passphrase: %q", shown)
	}
	// Nobody is asked who needs no key.
	u.start(t.Context(), "init-ca", "--dir="+dir)
	if code, shown := u.answers(); code != 0 || strings.Contains(shown, "passphrase") {
		t.Errorf("looking at it: exit code %d, %q", code, shown)
	}
	u.start(t.Context(), "init-ca", "--change-passphrase", "--dir="+dir)
	if code, shown := u.answers(asked, first+"\r", fresh, second+"\r", again, second+"\r"); code != 0 {
		t.Errorf("another passphrase: exit code %d, %q", code, shown)
	}
	// The old one is wrong by now.
	text := must.Get(os.ReadFile(authority.Path(dir)))(t)
	u.start(t.Context(), "init-ca", "--change-passphrase", "--dir="+dir)
	if code, shown := u.answers(asked, first+"\r"); code != 1 || !strings.Contains(shown, "passphrase of the authority is wrong") || !strings.Contains(shown, "hint: ") {
		t.Errorf("the old passphrase: exit code %d, %q", code, shown)
	}
	expect.Equal(t, "the file", string(text), string(must.Get(os.ReadFile(authority.Path(dir)))(t)))
	expect.Equal(t, "the terminal", before, u.settings())
}

func TestPassphraseRefused(t *testing.T) {
	u := newTypist(t)
	before := u.settings()
	const question = "new passphrase of the authority: "
	for name, c := range map[string]struct {
		answers []string
		code    int
		says    string
	}{
		"two that differ": {[]string{question, "correct horse battery\r", "the same again: ", "correct horse batter\r"}, 1, "differ"},
		"a short one":     {[]string{question, "1234567\r"}, 1, "shorter than 8"},
		"none":            {[]string{question, "\r"}, 1, "shorter than 8"},
		"end of input":    {[]string{question, "\x04"}, 1, "nothing was typed"},
		"Ctrl-C":          {[]string{question, "corr\x03"}, 130, "interrupted"},
		"Ctrl-C later":    {[]string{question, "correct horse battery\r", "the same again: ", "\x03"}, 130, "interrupted"},
	} {
		dir := filepath.Join(t.TempDir(), "authority")
		u.start(t.Context(), "init-ca", "--encrypt", "--dir="+dir)
		code, shown := u.answers(c.answers...)
		if code != c.code || !strings.Contains(shown, c.says) {
			t.Errorf("%s: exit code %d, %q", name, code, shown)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was written", name)
		}
		expect.Equal(t, name+": the terminal", before, u.settings())
	}
}

// A signal that ends the command finds the terminal without an echo, and leaves it as it was.
func TestPassphraseInterruptedBySignal(t *testing.T) {
	u := newTypist(t)
	before := u.settings()
	ctx, interrupt := context.WithCancel(t.Context())
	u.start(ctx, "init-ca", "--encrypt", "--dir="+filepath.Join(t.TempDir(), "authority"))
	until(t, u.user, "new passphrase of the authority: ")
	if u.settings().Lflag&unix.ECHO != 0 {
		t.Error("the terminal shows what is typed")
	}
	interrupt()
	code, shown := u.answers()
	if code != 130 || !strings.Contains(shown, "interrupted") {
		t.Errorf("exit code %d, %q", code, shown)
	}
	expect.Equal(t, "the terminal", before, u.settings())
	// The reader that was left behind ends before its terminal does.
	_, _ = io.WriteString(u.user, "\n")
}

func TestPassphraseWithoutATerminal(t *testing.T) {
	u := newTypist(t)
	dir, file := filepath.Join(t.TempDir(), "authority"), filepath.Join(t.TempDir(), "passphrase")
	runs := func(args ...string) (int, string) {
		var out, errOut strings.Builder
		code := runOn(t, t.Context(), u.server, genericiooptions.IOStreams{In: strings.NewReader("correct horse battery\n"), Out: &out, ErrOut: &errOut},
			append(args, "--dir="+dir)...)
		return code, errOut.String()
	}
	if code, said := runs("init-ca", "--encrypt"); code != 1 || !strings.Contains(said, "no terminal to ask on") || !strings.Contains(said, "--passphrase-file") {
		t.Errorf("nobody to ask: exit code %d, %q", code, said)
	}
	must.Do(t, os.WriteFile(file, []byte("correct horse battery\n"), 0o644))
	if code, said := runs("init-ca", "--encrypt", "--passphrase-file="+file); code != 1 || !strings.Contains(said, "open to other users") || strings.Contains(said, "horse") {
		t.Errorf("open file: exit code %d, %q", code, said)
	}
	must.Do(t, os.Chmod(file, 0o600))
	if code, said := runs("init-ca", "--encrypt", "--passphrase-file="+file); code != 0 || strings.Contains(said, "horse") {
		t.Errorf("from a file: exit code %d, %q", code, said)
	}
	expect.Equal(t, "kind", keys.Encrypted, keys.KindOf(must.Get(authority.LoadDir(dir))(t)))
}
