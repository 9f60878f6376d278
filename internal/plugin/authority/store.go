package authority

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// The store is a directory (0700) with one file (0600) that holds key and
// certificates together, and during a rotation two of them. The rules it lives by:
//
//   - The file appears complete, by link(2) or rename(2) of one that has been
//     written and synced under another name. There is no moment at which a
//     reader or a crash finds a part of it, or the parts of two.
//   - Without being told to replace, nothing is ever written over: link(2)
//     fails where a file is, also for the slower of two that run at once.
//   - What is replaced lives on as a backup, complete before the replacing.
//   - Leftovers of a crash are temporary files, never the file itself.
const (
	fileName = "authority.pem"
	// The two others of a rotation: the one that is to follow, and the one that
	// was replaced and is still trusted.
	nextName     = "authority-next.pem"
	previousName = "authority-previous.pem"

	tempPrefix = ".authority-"
	tempSuffix = ".tmp"
	// maxFileSize bounds what is read; an authority with a chain of a few RSA
	// certificates has about 10 kB.
	maxFileSize = 1 << 20
	// staleAfter is the age at which a temporary file is surely nobody's any more.
	staleAfter = time.Hour
)

// LoadDir reads the authority in dir. The error is [ErrNoAuthority] if there is
// none, [ErrExposed], [ErrDamaged], [ErrMismatch], [ErrNotAuthority] or
// [ErrExpired] if it must not be used, or that of the file system.
func LoadDir(dir string) (*ca.Authority, error) { return loadFile(dir, fileName, false) }

// loadFile reads an authority that need not be valid any more if expired is set:
// one that signs nothing.
func loadFile(dir, name string, expired bool) (*ca.Authority, error) {
	text, err := readPrivate(dir, name)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	a, err := ca.Decode(text)
	if err == nil && !expired {
		err = a.ValidAt(time.Now())
	}
	if err != nil {
		err = fmt.Errorf("reading %s: %w", path, err)
		if api.Hint(err) == "" {
			err = api.WithHint(err, "bring the file back from a backup, or replace it with 'kubectl gateway init-ca --force'")
		}
		return nil, err
	}
	return a, nil
}

// Path returns the file that holds the authority in dir.
func Path(dir string) string { return filepath.Join(dir, fileName) }

// CreateDir writes a to dir, which is made if needed. The error is [ErrExists]
// if an authority is there already, whatever its state.
func CreateDir(dir string, a *ca.Authority) error {
	s := store{dir: dir}
	return s.create(a)
}

// ReplaceDir writes a to dir in place of the authority that is there, if any,
// and returns the path of the backup of the old one, or "".
func ReplaceDir(dir string, a *ca.Authority) (backup string, err error) {
	s := store{dir: dir}
	return s.replace(a)
}

// store writes to a directory. Tests set step to interrupt it.
type store struct {
	dir string
	// step, if not nil, is called after each change of the file system; an
	// error ends the work there and then.
	step func(name string) error
}

func (s *store) did(step string) error {
	if s.step == nil {
		return nil
	}
	return s.step(step)
}

func (s *store) create(a *ca.Authority) error {
	text, err := a.Encode()
	if err != nil {
		return err
	}
	if err := s.prepare(); err != nil {
		return err
	}
	if _, err := os.Lstat(Path(s.dir)); err == nil {
		return existsError(s.dir)
	}
	return s.place(text, fileName, false)
}

func (s *store) replace(a *ca.Authority) (string, error) {
	text, err := a.Encode()
	if err != nil {
		return "", err
	}
	if err := s.prepare(); err != nil {
		return "", err
	}
	old, err := readRegular(Path(s.dir))
	if errors.Is(err, fs.ErrNotExist) {
		return "", s.place(text, fileName, false)
	}
	if err != nil {
		return "", api.WithHint(fmt.Errorf("backing up the old authority: %w", err), "move "+Path(s.dir)+" away, then try again")
	}
	backup := backupName()
	if err := s.place(old, backup, false); err != nil {
		return "", fmt.Errorf("backing up the old authority: %w", err)
	}
	backup = filepath.Join(s.dir, backup)
	return backup, s.place(text, fileName, true)
}

// retire renames the file called name to a backup, and returns its path.
func (s *store) retire(name string) (string, error) {
	from, to := filepath.Join(s.dir, name), filepath.Join(s.dir, backupName())
	if err := linkNew(from, to); err != nil {
		return "", fmt.Errorf("backing up %s: %w", from, err)
	}
	if err := s.did("backup linked"); err != nil {
		return "", err
	}
	return to, s.remove(name)
}

func (s *store) remove(name string) error {
	path := filepath.Join(s.dir, name)
	// Without hard links, the link was a renaming.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	if err := s.did("removed"); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func backupName() string {
	return "authority-" + time.Now().UTC().Format("20060102T150405.000000Z") + ".pem"
}

// prepare makes the directory, refuses one that others can write to, and
// removes what crashes have left.
func (s *store) prepare() error {
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
	return s.did("directory made")
}

// place makes text appear under name in one step. The error is ErrExists if
// name is taken and over is false.
func (s *store) place(text []byte, name string, over bool) (err error) {
	target := filepath.Join(s.dir, name)
	defer func() {
		if err != nil && !errors.Is(err, ErrExists) {
			err = fmt.Errorf("writing %s: %w", target, err)
		}
	}()
	var suffix [8]byte
	if _, err := rand.Read(suffix[:]); err != nil {
		return err
	}
	temp := filepath.Join(s.dir, tempPrefix+hex.EncodeToString(suffix[:])+tempSuffix)
	// O_EXCL also refuses a symbolic link that somebody has put there.
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(temp) // gone already after a rename
	}()
	if err := s.did("temporary file made"); err != nil {
		return err
	}
	half := len(text) / 2
	for _, part := range [][]byte{text[:half], text[half:]} {
		if _, err := f.Write(part); err != nil {
			return err
		}
		if err := s.did("part written"); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.did("temporary file synced"); err != nil {
		return err
	}
	if over {
		err = os.Rename(temp, target)
	} else {
		err = linkNew(temp, target)
	}
	if errors.Is(err, fs.ErrExist) && !over {
		return existsError(s.dir)
	}
	if err != nil {
		return err
	}
	if err := s.did("placed"); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// linkNew gives temp the name target unless that is taken.
func linkNew(temp, target string) error {
	err := os.Link(temp, target)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// Some file systems have no hard links (FAT, a few network ones). Then the
	// look and the renaming are two steps, still without a half-written file.
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		return fs.ErrExist
	}
	return os.Rename(temp, target)
}

func existsError(dir string) error {
	return api.WithHint(fmt.Errorf("%w in %s", ErrExists, dir), "'kubectl gateway rotate --ca' replaces it while traffic goes on; 'kubectl gateway init-ca --force' does so at once, and keeps a backup")
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

// readPrivate returns the content of the file called name if only its owner can
// read it.
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

// checkDir refuses a directory in which others can put another file.
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

// readRegular reads a file of bounded size. It opens nothing but regular files:
// a pipe would make it wait.
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
