package authority

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func TestCreateAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "below")
	if _, err := LoadDir(dir); !errors.Is(err, ErrNoAuthority) {
		t.Fatalf("before: %v", err)
	}
	a := mustCreate(t, dir)
	b := must.Get(LoadDir(dir))(t)
	if !b.Equal(a) {
		t.Errorf("loaded %v, stored %v", b, a)
	}
	if runtime.GOOS != "windows" {
		for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Dir(dir): 0o700, Path(dir): 0o600} {
			info := must.Get(os.Stat(path))(t)
			if info.Mode().Perm() != want {
				t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
			}
		}
	}
	before := must.Get(os.ReadFile(Path(dir)))(t)
	if err := CreateDir(dir, newTestAuthority(t, ca.DefaultTrustDomain)); !errors.Is(err, ErrExists) || api.Hint(err) == "" {
		t.Errorf("second creation: %v", err)
	}
	if after, err := os.ReadFile(Path(dir)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the authority was written over: %v", err)
	}
	if entries := names(t, dir); !slices.Equal(entries, []string{fileName}) {
		t.Errorf("the directory holds %v", entries)
	}
}

func TestReplaceKeepsBackup(t *testing.T) {
	dir := t.TempDir()
	first := newTestAuthority(t, ca.DefaultTrustDomain)
	if backup, err := supersede(dir, first); err != nil || backup != "" {
		t.Fatalf("replacing nothing: backup %q, %v", backup, err)
	}
	old := must.Get(os.ReadFile(Path(dir)))(t)
	// The backup of a file that others could read is not one that they can.
	must.Do(t, os.Chmod(Path(dir), 0o644))
	second := newTestAuthority(t, ca.DefaultTrustDomain)
	backup := must.Get(supersede(dir, second))(t)
	if kept, err := os.ReadFile(backup); err != nil || !bytes.Equal(kept, old) {
		t.Errorf("the backup is not the old authority: %v", err)
	}
	if info, err := os.Stat(backup); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("backup: mode %v, %v", info.Mode(), err)
	}
	if a, err := LoadDir(dir); err != nil || !a.Equal(second) {
		t.Errorf("loaded %v, %v", a, err)
	}
	expect.Equal(t, "files", 2, len(names(t, dir)))
}

// Of several that create at once, one wins and the others say so.
func TestCreateRace(t *testing.T) {
	dir := t.TempDir()
	const n = 8
	authorities, errs := make([]*ca.Authority, n), make([]error, n)
	for i := range authorities {
		authorities[i] = newTestAuthority(t, ca.DefaultTrustDomain)
	}
	var wg sync.WaitGroup
	for i, a := range authorities {
		wg.Go(func() { errs[i] = CreateDir(dir, a) })
	}
	wg.Wait()
	stored := must.Get(LoadDir(dir))(t)
	winners := 0
	for i, a := range authorities {
		switch {
		case errs[i] == nil && stored.Equal(a):
			winners++
		case errs[i] == nil:
			t.Error("a creation succeeded whose authority is not there")
		case !errors.Is(errs[i], ErrExists):
			t.Error(errs[i])
		}
	}
	expect.Equal(t, "winners", 1, winners)
}

func TestLoadRefuses(t *testing.T) {
	now := time.Now()
	expired := must.Get(ca.New(ca.Options{TTL: time.Hour, Now: now.Add(-2 * time.Hour)}))(t)
	encode := func(a *ca.Authority) []byte {
		return must.Get(a.Encode())(t)
	}
	b := newTestAuthority(t, ca.DefaultTrustDomain)
	for name, c := range map[string]struct {
		text []byte
		want error
	}{
		"empty":   {nil, ca.ErrDamaged},
		"half":    {encode(b)[:500], ca.ErrDamaged},
		"huge":    {make([]byte, maxFileSize+1), ca.ErrDamaged},
		"expired": {encode(expired), ca.ErrExpired},
	} {
		dir := t.TempDir()
		must.Do(t, os.WriteFile(Path(dir), c.text, 0o600))
		_, err := LoadDir(dir)
		expect.Refusal(t, name, err, c.want, "", " ")
		if errors.Is(err, ErrNoAuthority) {
			t.Errorf("%s: counts as none, and would be written over", name)
		}
		// Nor does creating another one touch it.
		if err := CreateDir(dir, b); !errors.Is(err, ErrExists) {
			t.Errorf("%s: creating over it: %v", name, err)
		}
		if after, err := os.ReadFile(Path(dir)); err != nil || !bytes.Equal(after, c.text) {
			t.Errorf("%s: the file was changed: %v", name, err)
		}
		// Replacing is the way out.
		if _, err := supersede(dir, b); err != nil && name != "huge" {
			t.Errorf("%s: replacing: %v", name, err)
		}
	}
}

func TestLoadPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no mode bits on Windows")
	}
	for _, c := range []struct {
		file, dir fs.FileMode
		want      error
	}{
		{0o600, 0o700, nil}, {0o400, 0o700, nil}, {0o600, 0o755, nil},
		{0o640, 0o700, ErrExposed}, {0o604, 0o700, ErrExposed}, {0o620, 0o700, ErrExposed}, {0o644, 0o700, ErrExposed},
		{0o600, 0o770, ErrExposed}, {0o600, 0o702, ErrExposed}, {0o600, 0o1777, ErrExposed},
	} {
		dir := t.TempDir()
		mustCreate(t, dir)
		must.Do(t, os.Chmod(Path(dir), c.file))
		must.Do(t, os.Chmod(dir, c.dir))
		_, err := LoadDir(dir)
		if what := fmt.Sprintf("file %04o in directory %04o", c.file, c.dir); c.want != nil {
			expect.Refusal(t, what, err, c.want, "", "chmod")
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A directory that others can write to does not get an authority at all.
	dir := t.TempDir()
	must.Do(t, os.Chmod(dir, 0o777))
	if err := CreateDir(dir, newTestAuthority(t, ca.DefaultTrustDomain)); !errors.Is(err, ErrExposed) || len(names(t, dir)) != 0 {
		t.Errorf("creating in an open directory: %v, holds %v", err, names(t, dir))
	}
}

// Root reads everything, so what cannot be read is something else than a file.
func TestLoadUnreadable(t *testing.T) {
	for name, place := range map[string]func(dir string) error{
		"directory":         func(dir string) error { return os.Mkdir(Path(dir), 0o700) },
		"link to itself":    func(dir string) error { return os.Symlink(fileName, Path(dir)) },
		"file as directory": func(dir string) error { return os.Remove(dir) },
	} {
		dir := filepath.Join(t.TempDir(), "authority")
		must.Do(t, os.Mkdir(dir, 0o700))
		must.Do(t, place(dir))
		if name == "file as directory" {
			must.Do(t, os.WriteFile(dir, nil, 0o600))
		}
		_, err := LoadDir(dir)
		expect.Refusal(t, name, err, nil, "", " ")
		if errors.Is(err, ErrNoAuthority) {
			t.Errorf("%s: %v", name, err)
		}
		a := newTestAuthority(t, ca.DefaultTrustDomain)
		if err := CreateDir(dir, a); err == nil {
			t.Errorf("%s: created over it", name)
		}
		_, err = supersede(dir, a)
		expect.Refusal(t, name+", replaced", err, nil, "", " ")
	}
	if os.Geteuid() == 0 {
		return
	}
	dir := t.TempDir()
	mustCreate(t, dir)
	must.Do(t, os.Chmod(Path(dir), 0))
	if _, err := LoadDir(dir); !errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrNoAuthority) {
		t.Errorf("without permission: %v", err)
	}
}

// A link that leads elsewhere, to an encrypted volume say, works.
func TestLoadThroughLink(t *testing.T) {
	real, dir := t.TempDir(), t.TempDir()
	a := mustCreate(t, real)
	must.Do(t, os.Symlink(Path(real), Path(dir)))
	if b, err := LoadDir(dir); err != nil || !b.Equal(a) {
		t.Errorf("loaded %v, %v", b, err)
	}
}

// Temporary files of a crash go away some day, those of a running process stay.
func TestStaleTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	stale, fresh := filepath.Join(dir, tempPrefix+"old"+tempSuffix), filepath.Join(dir, tempPrefix+"new"+tempSuffix)
	for _, path := range []string{stale, fresh} {
		must.Do(t, os.WriteFile(path, nil, 0o600))
	}
	long := time.Now().Add(-2 * staleAfter)
	must.Do(t, os.Chtimes(stale, long, long))
	mustCreate(t, dir)
	expect.Equal(t, "what the directory holds", []string{filepath.Base(fresh), fileName}, names(t, dir))
}
