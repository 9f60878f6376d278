//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cpuTime returns the CPU time that everything in a cgroup has used, in user
// and kernel mode, since the cgroup was made.
func cpuTime(cgroup string) (time.Duration, error) {
	fields, err := readFields(filepath.Join(cgroup, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	usage, ok := fields["usage_usec"]
	if !ok {
		return 0, fmt.Errorf("%s/cpu.stat has no usage_usec", cgroup)
	}
	return time.Duration(usage) * time.Microsecond, nil
}

// memory is what processes take, in bytes.
type memory struct {
	// RSS counts shared pages in each process, PSS divides them among all
	// processes of the machine that share them. Peak is the highest RSS.
	RSS, PSS, Peak uint64
}

// memoryOf adds up the memory of all processes in a cgroup.
func memoryOf(cgroup string) (sum memory, err error) {
	pids, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err != nil {
		return sum, err
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		rollup, err := readFields(filepath.Join("/proc", pid, "smaps_rollup"))
		if err != nil {
			return sum, err
		}
		status, err := readFields(filepath.Join("/proc", pid, "status"))
		if err != nil {
			return sum, err
		}
		sum.RSS += rollup["Rss"] << 10
		sum.PSS += rollup["Pss"] << 10
		sum.Peak += status["VmHWM"] << 10
	}
	return sum, nil
}

// readFields reads lines of a name and a number; others are left out.
func readFields(path string) (map[string]uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(words[1], 10, 64); err == nil {
			found[strings.TrimSuffix(words[0], ":")] = n
		}
	}
	return found, nil
}
