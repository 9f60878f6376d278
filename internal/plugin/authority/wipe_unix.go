//go:build unix

package authority

import (
	"io"
	"os"
	"syscall"
)

// openOld opens a file that is about to be replaced, for [wipe].
func openOld(path string) (*os.File, error) { return os.OpenFile(path, os.O_WRONLY, 0) }

// wipe overwrites a file that no name leads to. That reaches what the file system has written in this
// place, and no copy that it, a snapshot or a disk's wear levelling has elsewhere. A file that has another name is
// somebody's copy, or the target of a symbolic link: it stays, and remark says so.
func wipe(f *os.File) (remark string, err error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Nlink > 0 {
		return "the file that was there has another name, by a link, and is still there as it was: remove it, too", nil
	}
	if _, err := io.CopyN(f, zeros{}, info.Size()); err != nil {
		return "", err
	}
	return "", f.Sync()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
