package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/keycommand"
)

// Environment variables that say where a passphrase comes from. None has the passphrase: the environment of a
// process can be read.
const (
	envPassphraseFile = "KUBE_GATEWAY_PASSPHRASE_FILE"
	envAskPass        = "KUBE_GATEWAY_ASKPASS"
)

// authorityFlags say where the authority is, and where the passphrase of its key comes from.
type authorityFlags struct {
	app            *app
	authorityDir   string
	passphraseFile string
}

// add registers the flags. dir is the name of the one with the directory.
func (o *authorityFlags) add(a *app, f *pflag.FlagSet, dir string) {
	o.app = a
	addAuthorityDir(f, &o.authorityDir, dir)
	f.StringVar(&o.passphraseFile, "passphrase-file", "", "file or pipe with the passphrase of an encrypted authority (default $"+envPassphraseFile+", else the program $"+envAskPass+" or the terminal is asked)")
	flags.Files(f, "passphrase-file")
}

// keys opens the key of the authority.
func (o *authorityFlags) keys(ctx context.Context) *keys.Ring {
	file := o.passphraseFile
	if file == "" {
		file = os.Getenv(envPassphraseFile)
	}
	return keys.New(ctx, o.app.askPassphrase(file, "passphrase of the authority"))
}

// open returns the location of the authority, whose key is opened when it is loaded.
func (o *authorityFlags) open(ctx context.Context, location authority.Location) authority.Location {
	location.Keys = o.keys(ctx)
	return location
}

// askPassphrase gets a passphrase from a file if there is one, else from the program that the user has for this, else from
// the user. what names it.
func (a *app) askPassphrase(file, what string) keys.Ask {
	return func(ctx context.Context, fresh bool) (string, error) {
		if file != "" {
			text, err := keys.FromFile(file)
			if err != nil {
				return "", fmt.Errorf("reading the %s: %w", what, err)
			}
			return text, nil
		}
		ask := func(question string) (string, error) { return keys.FromProgram(ctx, os.Getenv(envAskPass), question) }
		if os.Getenv(envAskPass) == "" {
			tty, out, err := a.terminal()
			if err != nil {
				return "", api.WithHint(fmt.Errorf("%w: %w", keys.ErrLocked, err), "give --passphrase-file, or name a program that asks in $"+envAskPass)
			}
			if tty != a.In {
				defer func() { _ = tty.Close() }()
			}
			ask = func(question string) (string, error) { return terminal.ReadSecret(ctx, tty, out, question) }
		}
		return askTwice(ask, what, fresh)
	}
}

// askTwice asks once, or for a new passphrase twice.
func askTwice(ask func(question string) (string, error), what string, fresh bool) (string, error) {
	question := what
	if fresh {
		question = "new " + what
	}
	text, err := ask(question + ": ")
	if err == nil && fresh && len(text) >= keys.MinPassphrase {
		var again string
		if again, err = ask("the same again: "); err == nil && again != text {
			return "", errors.New("the two passphrases differ: nothing was changed")
		}
	}
	switch {
	case errors.Is(err, terminal.ErrInterrupted):
		return "", exitWith(130, err)
	case err != nil:
		return "", fmt.Errorf("asking for the %s: %w", what, err)
	}
	return text, nil
}

// terminal returns where the user can be asked: the standard streams, or else the terminal of the
// process, as when pods are read from standard input.
func (a *app) terminal() (tty *os.File, out io.Writer, err error) {
	if file, ok := a.In.(*os.File); ok && isTerminal(a.In) && isTerminal(a.ErrOut) {
		return file, a.ErrOut, nil
	}
	if a.In != io.Reader(os.Stdin) {
		return nil, nil, errors.New("there is no terminal to ask on")
	}
	name := "/dev/tty"
	if runtime.GOOS == "windows" {
		name = "CONIN$"
	}
	if tty, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		return nil, nil, errors.New("there is no terminal to ask on")
	}
	if runtime.GOOS == "windows" {
		return tty, a.ErrOut, nil
	}
	return tty, tty, nil
}

// addKeyCommand registers the flags that name the program which holds a key. when begins their usage.
func addKeyCommand(f *pflag.FlagSet, c *keycommand.Command, when string) {
	f.StringVar(&c.Program, "key-command", "", when+"program that holds the key of the new authority and signs with it; the key is in no file")
	f.StringArrayVar(&c.Args, "key-arg", nil, when+"argument of the --key-command; may be repeated")
	flags.Files(f, "key-command")
}

// keyCommand returns the program as the authority's file is to name it, nil if there is none.
func keyCommand(c keycommand.Command) (*keycommand.Command, error) {
	switch {
	case c.Program == "" && len(c.Args) > 0:
		return nil, errors.New("--key-arg needs --key-command")
	case c.Program == "":
		return nil, nil
	case !strings.ContainsRune(c.Program, filepath.Separator):
		return &c, nil
	}
	var err error
	if c.Program, err = filepath.Abs(c.Program); err != nil {
		return nil, fmt.Errorf("finding --key-command: %w", err)
	}
	return &c, nil
}
