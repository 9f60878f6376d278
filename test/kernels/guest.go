//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed init.sh
var initScript string

// guest is a virtual machine that runs tests and ends.
type guest struct {
	Accel    string // QEMU's accelerator
	Kernel   kernelFiles
	Archives []string // what its root file system is made of
	Dir      string   // for its files
	Log      string   // path of what the tests say, and of the kernel's messages with ".console"
}

// packTests makes the archive with the first process, the script that it runs, and the
// tests.
func packTests(ctx context.Context, dir, programs, script string, steps []step) (archive string, err error) {
	root := filepath.Join(dir, "root")
	if err := os.RemoveAll(root); err != nil {
		return "", err
	}
	dirs := []string{"proc", "sys", "dev", "tmp", "root"}
	for _, s := range steps {
		dirs = append(dirs, filepath.Join("src", s.Group.Dir))
	}
	for _, sub := range dirs {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(root, "init"), []byte(initScript), 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(root, "plan"), []byte(script), 0o644); err != nil {
		return "", err
	}
	if err := os.CopyFS(filepath.Join(root, "tests"), os.DirFS(programs)); err != nil {
		return "", err
	}
	archive = filepath.Join(dir, "tests.cpio")
	return archive, pack(ctx, root, archive)
}

// run boots the guest and returns when it has powered itself off. follow gets what it
// says. The context's end is the guest's.
func (g guest) run(ctx context.Context, follow func(io.Reader) error) error {
	initrd := filepath.Join(g.Dir, "initrd")
	if err := concatenate(initrd, g.Archives); err != nil {
		return err
	}
	defer os.Remove(initrd)
	log, err := os.Create(g.Log)
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(g.clock(),
		"-cpu", "max,-la57", "-m", "2G",
		"-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", g.Kernel.Image, "-initrd", initrd,
		"-serial", "file:"+g.console(), "-serial", "stdio",
		"-append", "console=ttyS0 loglevel=5 panic=-1 cgroup_no_v1=all mitigations=off rdinit=/init")...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	// QEMU ends with this program, whatever ends that.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	followed := follow(io.TeeReader(said, log))
	err = cmd.Wait()
	switch {
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return errors.New("the guest has not ended in time")
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("QEMU: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return followed
}

// clock is QEMU's accelerator and its clock. Without KVM a guest is slow, the more so
// where others have the processors. So its time is not the host's: it goes by the
// instructions that were executed, and jumps where all wait.
func (g guest) clock() []string {
	if g.Accel != "tcg" {
		return []string{"-accel", g.Accel, "-smp", "2"}
	}
	return []string{"-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-rtc", "clock=vm"}
}

// console is the path of the kernel's messages.
func (g guest) console() string { return g.Log + ".console" }

// concatenate writes archives one after the other: the kernel unpacks them all.
func concatenate(to string, from []string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, path := range from {
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		in.Close()
		if err != nil {
			return err
		}
	}
	return out.Close()
}
