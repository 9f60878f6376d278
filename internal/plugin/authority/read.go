package authority

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// maxFileSize bounds what is read; an authority with a chain of a few RSA
// certificates has about 10 kB.
const maxFileSize = 1 << 20

// readPrivate reads a file that only its owner can read.
func readPrivate(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoAuthority, dir)
	}
	if err != nil {
		return nil, unreadable(path, err)
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, api.WithHint(fmt.Errorf("%w: %s has mode %04o, 0600 is allowed", ErrExposed, path, info.Mode().Perm()),
			fmt.Sprintf("if nobody else has read it: chmod 600 '%s'; otherwise replace it with 'kubectl gateway init-ca --force'", path))
	}
	text, err := readRegular(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	return text, nil
}

func unreadable(path string, err error) error {
	return api.WithHint(fmt.Errorf("reading the authority: %w", err),
		fmt.Sprintf("check owner and mode of '%s', or choose another directory with --dir or $%s", path, EnvDir))
}

// checkDir refuses a directory in which others can replace a file.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return unreadable(dir, err)
	}
	if !info.IsDir() {
		return unreadable(dir, fmt.Errorf("%s is not a directory", dir))
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0 {
		return api.WithHint(fmt.Errorf("%w: directory %s has mode %04o, others can write to it", ErrExposed, dir, info.Mode().Perm()),
			fmt.Sprintf("chmod 700 '%s', or choose another directory with --dir or $%s", dir, EnvDir))
	}
	return nil
}

// readRegular reads a file of bounded size. It opens only regular files: a pipe
// would make it wait.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFileSize {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ca.ErrDamaged, path, maxFileSize)
	}
	return text, nil
}
