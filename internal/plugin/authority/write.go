package authority

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Files in the directory live by these rules:
//
//   - A file appears complete, by link(2) or rename(2) of one that has been written
//     and synced under another name. No reader and no crash finds a part of it, or
//     the parts of two.
//   - Nothing is written over unless it is to be replaced: link(2) fails where a file
//     is, also for the slower of two that run at once.
//   - What is replaced lives on as a backup, complete before the replacing.
//   - Leftovers of a crash are temporary files, never the file itself.
const (
	tempPrefix = ".authority-"
	tempSuffix = ".tmp"
	// staleAfter is the age from which no process uses a temporary file any more.
	staleAfter = time.Hour
)

// did tells that a step was done, unless err is why it was not.
func (s *dirStore) did(step string, err error) error {
	if err == nil && s.step != nil {
		return s.step(step)
	}
	return err
}

// prepare makes the directory, refuses one that others can write to, and
// removes what crashes have left.
func (s *dirStore) prepare() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return api.WithHint(fmt.Errorf("making the authority's directory: %w", err), "choose another one with --dir or $"+EnvDir)
	}
	if err := checkDir(s.dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("reading the authority's directory: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), tempPrefix) || !strings.HasSuffix(entry.Name(), tempSuffix) {
			continue
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > staleAfter {
			_ = os.Remove(filepath.Join(s.dir, entry.Name())) // only tidying up
		}
	}
	return s.did("directory made", nil)
}

// place makes text appear under name in one step. The error is ErrExists if
// name is taken and over is false.
func (s *dirStore) place(text []byte, name string, over bool) (err error) {
	target := filepath.Join(s.dir, name)
	defer func() {
		if err != nil && !errors.Is(err, ErrExists) {
			err = fmt.Errorf("writing %s: %w", target, err)
		}
	}()
	// Its mode is 0600, and it is never opened through a symbolic link.
	f, err := os.CreateTemp(s.dir, tempPrefix+"*"+tempSuffix)
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) // gone already after a rename
	}()
	if err := s.did("temporary file made", nil); err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := s.did("temporary file written", err); err != nil {
		return err
	}
	if err := s.did("temporary file synced", errors.Join(f.Sync(), f.Close())); err != nil {
		return err
	}
	if over {
		err = os.Rename(f.Name(), target)
	} else {
		err = linkNew(f.Name(), target)
	}
	if errors.Is(err, fs.ErrExist) && !over {
		return api.WithHint(fmt.Errorf("%w in %s", ErrExists, s.dir), "'kubectl gateway rotate --ca' replaces it while traffic goes on; 'kubectl gateway init-ca --force' does so at once, and keeps a backup")
	}
	if err := s.did("placed", err); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// linkNew gives the file called name another name, target, unless that is taken.
func linkNew(name, target string) error {
	err := os.Link(name, target)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// Some file systems have no hard links (FAT, a few network ones). Then the
	// look and the renaming are two steps, still without a half-written file.
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		return fs.ErrExist
	}
	return os.Rename(name, target)
}

// syncDir makes a rename in dir survive a power failure.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
