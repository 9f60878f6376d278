package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/keycommand"
)

// maxPEMFile bounds what --from-cert and --from-key read, in bytes.
const maxPEMFile = 1 << 20

// sourceFlags describe a new authority.
type sourceFlags struct {
	ttl               time.Duration
	certFile, keyFile string
	command           keycommand.Command
	encrypt           bool
}

// add registers the flags. when begins their usage, which names the given authority.
func (s *sourceFlags) add(cmd *cobra.Command, when, which string) {
	f := cmd.Flags()
	f.StringVar(&s.certFile, "from-cert", "", when+"PEM file with the certificate of "+which+" and its chain up to the root")
	f.StringVar(&s.keyFile, "from-key", "", when+"PEM file with the private key of --from-cert, unless --key-command has it")
	flags.Parsed(f, &s.ttl, "ttl", "string", "10y", when+"how long a new authority is valid, like 720h, 90d or 10y", parseLifetime)
	flags.Files(f, "from-cert", "from-key")
	f.BoolVar(&s.encrypt, "encrypt", false, when+"encrypt the key with a new passphrase, in the format of age")
	addKeyCommand(f, &s.command, when)
}

// given reports whether a flag says where the new authority or its key comes from.
func (s *sourceFlags) given() bool {
	return s.certFile != "" || s.keyFile != "" || s.encrypt || s.command.Program != "" || len(s.command.Args) > 0
}

// read reads the files that the flags name.
func (s *sourceFlags) read(f *pflag.FlagSet) (authority.Source, error) {
	source := authority.Source{Encrypt: s.encrypt}
	var err error
	if source.Command, err = keyCommand(s.command); err != nil {
		return source, err
	}
	if (s.certFile == "") != (s.keyFile == "") && source.Command == nil {
		return source, api.WithHint(errors.New("--from-cert and --from-key are needed together"), "or give --key-command for the key of --from-cert")
	}
	if f.Changed("ttl") {
		source.TTL = s.ttl
	}
	for _, file := range []struct {
		flag, path string
		content    *[]byte
	}{{"--from-cert", s.certFile, &source.CertPEM}, {"--from-key", s.keyFile, &source.KeyPEM}} {
		if file.path == "" {
			continue
		}
		text, err := readBounded(file.path)
		if err != nil {
			return source, fmt.Errorf("reading %s: %w", file.flag, err)
		}
		*file.content = text
	}
	return source, source.Validate()
}

// readBounded reads a file or a pipe of 1 to maxPEMFile bytes.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxPEMFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) == 0:
		return nil, errors.New(path + " is empty")
	case len(text) > maxPEMFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxPEMFile)
	}
	return text, nil
}

// parseLifetime reads a positive duration, in the syntax of time.ParseDuration or with the
// units d (24 hours), w (7 days) and y (365 days), as in 30d.
func parseLifetime(text string) (time.Duration, error) {
	const hint = "write it like 12h, 90d, 8w or 10y"
	d, err := time.ParseDuration(text)
	if err != nil {
		var days model.Duration
		days, err = model.ParseDuration(strings.TrimPrefix(text, "+"))
		d = time.Duration(days)
	}
	if err != nil {
		return 0, api.WithHint(fmt.Errorf("%q is not a lifetime", text), hint)
	}
	if d <= 0 {
		return 0, api.WithHint(fmt.Errorf("%q is not positive", text), hint)
	}
	return d, nil
}
