package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// recorder collects output. The typing is made up, and what commands write is not.
type recorder struct {
	mu    sync.Mutex
	start time.Time
	cast  *cast
}

func (r *recorder) add(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cast.events = append(r.cast.events, output{time.Since(r.start), text})
}

// record runs a script in a terminal of its own.
func record(ctx context.Context, s script) (*cast, error) {
	r := &recorder{start: time.Now(), cast: &cast{Version: 2, Width: s.width, Height: s.height, Title: s.title}}
	for _, scene := range s.scenes {
		if scene.comment != "" {
			r.add("\x1b[2m# " + scene.comment + "\x1b[0m\r\n")
		}
		r.add("\x1b[1;32m$\x1b[0m ")
		for _, key := range scene.command {
			time.Sleep(keystroke)
			r.add(string(key))
		}
		time.Sleep(reading / 3)
		r.add("\r\n")
		if err := r.run(ctx, s, scene); err != nil {
			return nil, fmt.Errorf("%s: %w", scene.command, err)
		}
		time.Sleep(reading)
		r.add("\r\n")
	}
	return r.cast, nil
}

// run runs a command and records what it writes to its terminal.
func (r *recorder) run(ctx context.Context, s script, scene scene) error {
	master, slave, err := openTerminal(s.width, s.height)
	if err != nil {
		return fmt.Errorf("opening a terminal: %w", err)
	}
	defer master.Close()
	words := strings.Fields(scene.command)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	_ = slave.Close()
	if err != nil {
		return err
	}
	if scene.until > 0 {
		timer := time.AfterFunc(scene.until, func() { _, _ = master.Write([]byte{3}) })
		defer timer.Stop()
	}
	var rest []byte
	buffer := make([]byte, 4096)
	for {
		n, err := master.Read(buffer)
		rest = append(rest, buffer[:n]...)
		// A character may come in two pieces.
		whole := len(rest)
		for whole > 0 && len(rest)-whole < utf8.UTFMax && !utf8.Valid(rest[:whole]) {
			whole--
		}
		if whole > 0 {
			r.add(string(rest[:whole]))
			rest = append([]byte(nil), rest[whole:]...)
		}
		if err != nil {
			break // EIO: the other side is closed
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if scene.until > 0 && errors.As(err, &exit) {
		return nil
	}
	return err
}

// openTerminal opens a pseudo-terminal (pty(7)).
func openTerminal(width, height int) (master, slave *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
		var number int
		if number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err == nil {
			slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
		}
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
	}
	if err != nil {
		_ = master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}
