//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// forgetKey takes the key out of this process's environment. The runtime gives every command that is
// executed in the container what the gateway was started with, the key of --delivery=secret included, and
// /proc/<pid>/environ shows it for as long as the command runs.
func forgetKey() error {
	if _, ok := os.LookupEnv(api.EnvKey); !ok {
		return nil
	}
	os.Unsetenv(api.EnvKey)
	return eraseEnvironment()
}

// eraseEnvironment overwrites the environment that the kernel has handed to this process. Go goes on with a
// copy.
func eraseEnvironment() error {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	from, to, err := environmentIn(text)
	if err != nil {
		return err
	}
	memory, err := os.OpenFile("/proc/self/mem", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = memory.WriteAt(make([]byte, to-from), from)
	return errors.Join(err, memory.Close())
}

// environmentIn returns where the environment is in memory, given the text of /proc/<pid>/stat.
func environmentIn(stat []byte) (from, to int64, err error) {
	// The name of the program may have spaces and parentheses. What follows begins with field 3; the
	// environment is in fields 50 and 51 (proc_pid_stat(5)).
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const start, end = 50 - 3, 51 - 3
	if len(fields) <= end {
		return 0, 0, fmt.Errorf("/proc/self/stat has %d fields: %w", len(fields), fs.ErrInvalid)
	}
	from, startErr := strconv.ParseInt(string(fields[start]), 10, 64)
	to, endErr := strconv.ParseInt(string(fields[end]), 10, 64)
	if err := errors.Join(startErr, endErr); err != nil || from > to {
		return 0, 0, fmt.Errorf("the environment is from %d to %d: %w", from, to, errors.Join(err, fs.ErrInvalid))
	}
	return from, to, nil
}
