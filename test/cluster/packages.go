//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tool is a program of the machine that the cluster uses.
type tool struct {
	command string // looked up on PATH
	debian  string // the package that has it
}

func tools() []tool {
	return []tool{
		{"runc", "runc"},
		{"nft", "nftables"},        // kube-proxy
		{"conntrack", "conntrack"}, // for a look at what kube-proxy did
		{"iptables", "iptables"},   // kubelet, hostPort
		{"ip", "iproute2"},
		{"ethtool", "ethtool"},
		{"tcpdump", "tcpdump"},
	}
}

// cniDirs are where distributions put the CNI plugins.
func cniDirs() []string {
	return []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}
}

const cniPackage = "containernetworking-plugins"

// findCNI returns the directory of the CNI plugins, "" if there is none.
func findCNI() string {
	for _, dir := range cniDirs() {
		if _, err := os.Stat(filepath.Join(dir, "ptp")); err == nil {
			return dir
		}
	}
	return ""
}

func missingPackages() []string {
	var missing []string
	for _, t := range tools() {
		if _, err := lookPath(t.command); err != nil {
			missing = append(missing, t.debian)
		}
	}
	if findCNI() == "" {
		missing = append(missing, cniPackage)
	}
	return missing
}

// installPackages installs what the machine lacks, with apt-get.
func installPackages(ctx context.Context, progress *progress) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return withHint(errors.New("the machine lacks "+list+" (names of Debian packages)"), "install them with the package manager of this machine")
	}
	defer progress.step("installing Debian packages: " + list)()
	// A failed update is not the end: the lists may be fresh enough.
	update := aptGet(ctx, "update")
	updateOutput, updateErr := update.CombinedOutput()
	output, err := aptGet(ctx, append([]string{"install", "-y", "--no-install-recommends"}, missing...)...).CombinedOutput()
	if err != nil {
		if updateErr != nil {
			output = slices.Concat(updateOutput, output)
		}
		return fmt.Errorf("installing %s: %w\n%s", list, err, tail(string(output), 20))
	}
	if missing := missingPackages(); len(missing) > 0 {
		return fmt.Errorf("installed %s, and still the machine lacks %s", list, strings.Join(missing, " "))
	}
	return nil
}

// aptGet is not ended with the context's default of SIGKILL: a half-configured
// package would be worse than a moment's wait.
func aptGet(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return cmd
}

// systemPath is the PATH of everything that runs in the cluster: Debian keeps
// network tools where an ordinary user's PATH does not look.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds a command on systemPath.
func lookPath(command string) (string, error) {
	for _, dir := range filepath.SplitList(systemPath) {
		path := filepath.Join(dir, command)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", command)
}

// tail returns the last n lines of a text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
