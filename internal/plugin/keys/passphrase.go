package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// askTimeout bounds how long a program may take to get a passphrase from a person.
const askTimeout = 5 * time.Minute

// FromFile reads a passphrase from a file or a pipe: its first and only line. A file must not be open to others, but
// may be to its group, as those that Kubernetes mounts are.
func FromFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if mode := info.Mode(); mode.IsRegular() && runtime.GOOS != "windows" && mode.Perm()&0o027 != 0 {
		return "", api.WithHint(fmt.Errorf("%s is open to other users of this machine: it has mode %04o", path, mode.Perm()),
			fmt.Sprintf("chmod 600 '%s', and take another passphrase if somebody may have read it", path))
	}
	return line(f)
}

// FromProgram runs a program as ssh runs $SSH_ASKPASS: with the question as its argument. What it writes is the passphrase.
func FromProgram(ctx context.Context, program, question string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, question)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return "", err
	}
	text, err := line(out)
	// It may have more to say than it may.
	_ = out.Close()
	if failed := cmd.Wait(); failed != nil && (err == nil || ctx.Err() != nil) {
		err = failed
	}
	return text, err
}

// line reads one line, and nothing behind it.
func line(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxPassphrase+1))
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	switch {
	case err != nil:
		return "", err
	case len(text) == 0:
		return "", errors.New("it is empty")
	case len(text) > maxPassphrase:
		return "", fmt.Errorf("it has more than %d bytes", maxPassphrase)
	case bytes.ContainsAny(text, "\n\x00"):
		return "", errors.New("it has more than one line")
	}
	return string(text), nil
}
