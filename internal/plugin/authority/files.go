package authority

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Names of files. Each holds key and certificates together.
const (
	fileName     = "authority.pem"
	nextName     = "authority-next.pem"
	previousName = "authority-previous.pem"
)

var slotFiles = [slotCount]string{current: fileName, next: nextName, previous: previousName}

// dirStore keeps authorities in a directory.
type dirStore struct {
	dir string
	// keys may be nil: then keys that are encrypted stay so.
	keys *keys.Ring
	// step, if not nil, is called after each change of the file system. An error
	// ends the work there and then.
	step func(name string) error
	// backup is the path of the last backup, or "".
	backup string
}

// Path returns the file that holds the authority in dir.
func Path(dir string) string { return filepath.Join(dir, fileName) }

// LoadDir reads the authority in dir. The error is [ErrNoAuthority] if there is
// none, [ErrExposed], [ca.ErrDamaged], [ca.ErrMismatch], [ca.ErrNotAuthority] or
// [ca.ErrExpired] if it must not be used, or that of the file system.
func LoadDir(dir string) (*ca.Authority, error) { return (&dirStore{dir: dir}).get(current) }

// CreateDir writes a to dir, which is made if needed. The error is [ErrExists]
// if an authority is there already, whatever its state.
func CreateDir(dir string, a *ca.Authority) error {
	return (&dirStore{dir: dir}).write(a, current, false)
}

func (s *dirStore) String() string { return Path(s.dir) }

func (s *dirStore) read(context.Context) (state, error) { return readSlots(s.get, s.dir) }

func (s *dirStore) get(from slot) (*ca.Authority, error) {
	text, err := readPrivate(s.dir, slotFiles[from])
	if err != nil {
		return nil, err
	}
	a, err := s.keys.Decode(text)
	if err == nil {
		err = checkTime(a, from)
	}
	if err == nil {
		return a, nil
	}
	err = fmt.Errorf("reading %s: %w", filepath.Join(s.dir, slotFiles[from]), err)
	if api.Hint(err) == "" {
		err = api.WithHint(err, "bring the file back from a backup, or replace it with 'kubectl gateway init-ca --force'")
	}
	return nil, err
}

func (s *dirStore) fill(_ context.Context, to slot, a *ca.Authority) error {
	err := s.write(a, to, false)
	if errors.Is(err, ErrExists) {
		return api.WithHint(fmt.Errorf("writing %s: %w", filepath.Join(s.dir, slotFiles[to]), ErrChanged), "run the command again")
	}
	return err
}

func (s *dirStore) replace(_ context.Context, a *ca.Authority) error {
	return s.write(a, current, true)
}

func (s *dirStore) write(a *ca.Authority, to slot, over bool) error {
	text, err := a.Encode()
	if err != nil {
		return err
	}
	if err := s.prepare(); err != nil {
		return err
	}
	return s.place(text, slotFiles[to], over)
}

func (s *dirStore) empty(_ context.Context, from slot, backup bool) error {
	if !backup {
		return s.remove(slotFiles[from])
	}
	return s.retire(slotFiles[from])
}

// supersede replaces the current authority, whatever its state, and keeps a backup.
func (s *dirStore) supersede(a *ca.Authority) error {
	if err := s.prepare(); err != nil {
		return err
	}
	old, err := readRegular(Path(s.dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return api.WithHint(fmt.Errorf("backing up the old authority: %w", err), "move "+Path(s.dir)+" away, then try again")
	}
	if err == nil {
		// A link would keep the mode of a file that others can read.
		backup := backupName()
		if err := s.place(old, backup, false); err != nil {
			return fmt.Errorf("backing up the old authority: %w", err)
		}
		s.backup = filepath.Join(s.dir, backup)
	}
	return s.write(a, current, err == nil)
}

// reseal puts the current authority, whose key is kept in another way by now, in the place of its file, and
// overwrites that. remark says what is left of it, or is empty. The error is ErrChanged if the file has another authority
// meanwhile.
func (s *dirStore) reseal(a *ca.Authority) (remark string, err error) {
	old, err := openOld(Path(s.dir))
	if err != nil {
		return "", fmt.Errorf("opening the old file: %w", err)
	}
	defer func() { _ = old.Close() }()
	found, err := s.get(current)
	if err == nil && !found.Equal(a) {
		err = api.WithHint(fmt.Errorf("writing %s: %w", s, ErrChanged), "run the command again")
	}
	if err == nil {
		err = s.write(a, current, true)
	}
	if err != nil {
		return "", err
	}
	if remark, err = wipe(old); err != nil {
		return "", fmt.Errorf("the new file is in its place; overwriting what was there: %w", err)
	}
	return remark, s.did("overwritten", nil)
}

// inTheOpen returns the backups whose keys lie in the open.
func (s *dirStore) inTheOpen() []string {
	backups, _ := filepath.Glob(filepath.Join(s.dir, "authority-*.pem")) // the pattern is good
	return slices.DeleteFunc(backups, func(path string) bool {
		text, err := readRegular(path)
		if err != nil || filepath.Base(path) == retiredName {
			return true
		}
		_, err = ca.Decode(text)
		return err != nil
	})
}

// retire renames a file to a backup, if it exists.
func (s *dirStore) retire(name string) error {
	from, backup := filepath.Join(s.dir, name), filepath.Join(s.dir, backupName())
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := linkNew(from, backup); err != nil {
		return fmt.Errorf("backing up %s: %w", from, err)
	}
	s.backup = backup
	if err := s.did("backup linked", nil); err != nil {
		return err
	}
	return s.remove(name)
}

func (s *dirStore) remove(name string) error {
	path := filepath.Join(s.dir, name)
	// Without hard links, the link was a renaming.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	if err := s.did("removed", nil); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func backupName() string {
	return "authority-" + time.Now().UTC().Format("20060102T150405.000000Z") + ".pem"
}
