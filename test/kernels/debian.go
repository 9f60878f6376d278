//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// userSuite is the Debian release that all guests have their user space of.
const userSuite = "bookworm"

// userPackages are a shell, modprobe and nft, with what they depend on.
func userPackages() []string { return []string{"busybox-static", "kmod", "nftables"} }

// guestModules are the modules that guests get: what the network needs, with what it
// depends on. modprobe loads them when the kernel asks for them.
func guestModules() []string {
	return []string{"kernel/net/", "kernel/lib/", "kernel/crypto/", "kernel/arch/x86/crypto/", "kernel/drivers/net/veth.ko", "modules."}
}

// apt is a Debian release as apt knows it, apart from the machine's own packages.
type apt struct {
	suite string
	dir   string // of lists and downloads
}

// newAPT makes dir ready and fetches the lists of a release.
func newAPT(ctx context.Context, dir, suite string) (*apt, error) {
	a := &apt{suite, dir}
	for _, sub := range []string{"etc/apt/sources.list.d", "etc/apt/preferences.d", "var/lib/dpkg", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	mirror, err := debianMirror(ctx)
	if err != nil {
		return nil, err
	}
	for path, text := range map[string]string{
		"etc/apt/sources.list": fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, mirror, suite),
		"var/lib/dpkg/status":  "",
	} {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	_, err = a.run(ctx, "", "apt-get", "update", "-qq", "--error-on=any")
	return a, err
}

// run runs a program of apt in a directory. Whatever the machine's settings are, it
// takes no package that is not signed.
func (a *apt) run(ctx context.Context, in, program string, args ...string) (string, error) {
	options := []string{
		"-o", "Dir=" + a.dir, "-o", "Dir::State::status=" + a.dir + "/var/lib/dpkg/status",
		"-o", "APT::Architecture=amd64", "-o", "APT::Architectures::=amd64", "-o", "APT::Get::AllowUnauthenticated=false",
		"-o", "Acquire::AllowInsecureRepositories=false", "-o", "Acquire::AllowWeakRepositories=false",
		"-o", "Acquire::AllowDowngradeToInsecureRepositories=false", "-o", "Acquire::Languages=none",
		// The user that apt downloads as cannot enter another one's cache directory.
		"-o", "APT::Sandbox::User=root",
	}
	return command(ctx, in, program, append(options, args...)...)
}

// newest returns the version of the newest kernel, by the package that depends on it.
func (a *apt) newest(ctx context.Context) (string, error) {
	text, err := a.run(ctx, "", "apt-cache", "depends", "linux-image-cloud-amd64")
	if err != nil {
		return "", err
	}
	found := regexp.MustCompile(`Depends: linux-image-(\S+)-cloud-amd64\n`).FindStringSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("no kernel in Debian %s: %q", a.suite, text)
	}
	return found[1], nil
}

// unpackKernel unpacks the packages of a kernel into a directory. The image of newer
// releases only depends on those that have the files.
func (a *apt) unpackKernel(ctx context.Context, version, into string) error {
	image := kernelPackage(version)
	text, err := a.run(ctx, "", "apt-cache", "depends", image)
	if err != nil {
		return err
	}
	packages := []string{image}
	for _, m := range regexp.MustCompile(`Depends: (linux-(?:binary|modules)-\S+)\n`).FindAllStringSubmatch(text, -1) {
		packages = append(packages, m[1])
	}
	debs, err := os.MkdirTemp(a.dir, "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	if _, err := a.run(ctx, debs, "apt-get", append([]string{"download", "-qq"}, packages...)...); err != nil {
		return err
	}
	return unpack(ctx, debs, into)
}

// unpackWithDependencies unpacks packages and all that they depend on.
func (a *apt) unpackWithDependencies(ctx context.Context, into string, packages ...string) error {
	args := append([]string{"install", "-qq", "--yes", "--download-only", "--no-install-recommends"}, packages...)
	if _, err := a.run(ctx, "", "apt-get", args...); err != nil {
		return err
	}
	archives := filepath.Join(a.dir, "var/cache/apt/archives")
	defer os.RemoveAll(archives)
	return unpack(ctx, archives, into)
}

func unpack(ctx context.Context, debs, into string) error {
	found, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("apt has downloaded nothing to %s", debs)
	}
	for _, deb := range found {
		if _, err := command(ctx, "", "dpkg-deb", "--extract", deb, into); err != nil {
			return err
		}
	}
	return nil
}

func kernelPackage(version string) string { return "linux-image-" + version + "-cloud-amd64" }

// cache is the directory of what was made of packages.
type cache string

func openCache() (cache, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(user, "kubectl-gateway", "kernels")
	return cache(dir), os.MkdirAll(dir, 0o755)
}

// entry returns a directory of the cache. If it is not there, fill makes it: whole,
// or not at all.
func (c cache) entry(name string, fill func(dir string) error) (string, error) {
	dir := filepath.Join(string(c), name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	temporary, err := os.MkdirTemp(string(c), "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temporary)
	if err := fill(temporary); err != nil {
		return "", fmt.Errorf("making %s: %w", name, err)
	}
	if err := os.Rename(temporary, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

func (c cache) apt(ctx context.Context, suite string) (*apt, error) {
	return newAPT(ctx, filepath.Join(string(c), "apt-"+suite), suite)
}

// userSpace returns the archive of the guests' user space.
func (c cache) userSpace(ctx context.Context) (archive string, err error) {
	dir, err := c.entry(userSuite+"-"+strings.Join(userPackages(), "-"), func(dir string) error {
		a, err := c.apt(ctx, userSuite)
		if err != nil {
			return err
		}
		root := filepath.Join(dir, "root")
		defer os.RemoveAll(root)
		if err := a.unpackWithDependencies(ctx, root, userPackages()...); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(root, "usr/share")); err != nil {
			return err
		}
		if err := os.Symlink("busybox", filepath.Join(root, "bin/sh")); err != nil {
			return err
		}
		return pack(ctx, root, filepath.Join(dir, "root.cpio"))
	})
	return filepath.Join(dir, "root.cpio"), err
}

// kernelFiles is a kernel that is ready to boot.
type kernelFiles struct {
	Package string
	Image   string // for QEMU
	Modules string // an archive
}

// kernel returns the kernel that is asked for, or the newest of its release where
// that has it no more.
func (c cache) kernel(ctx context.Context, k kernel) (kernelFiles, error) {
	version := k.Version
	if _, err := os.Stat(filepath.Join(string(c), kernelPackage(version))); err != nil {
		a, err := c.apt(ctx, k.Suite)
		if err != nil {
			return kernelFiles{}, err
		}
		if _, err := a.run(ctx, "", "apt-cache", "show", kernelPackage(version)); err != nil {
			if version, err = a.newest(ctx); err != nil {
				return kernelFiles{}, err
			}
		}
		if _, err := c.entry(kernelPackage(version), func(dir string) error { return a.makeKernel(ctx, version, dir) }); err != nil {
			return kernelFiles{}, err
		}
	}
	dir := filepath.Join(string(c), kernelPackage(version))
	return kernelFiles{kernelPackage(version), filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "modules.cpio")}, nil
}

func (a *apt) makeKernel(ctx context.Context, version, dir string) error {
	root := filepath.Join(dir, "root")
	defer os.RemoveAll(root)
	if err := a.unpackKernel(ctx, version, root); err != nil {
		return err
	}
	from, err := first(filepath.Join(root, "lib/modules/*"), filepath.Join(root, "usr/lib/modules/*"))
	if err != nil {
		return err
	}
	image, err := first(filepath.Join(root, "boot/vmlinuz-*"), filepath.Join(from, "vmlinuz"))
	if err != nil {
		return err
	}
	if err := os.Rename(image, filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	release := filepath.Base(from)
	modules := filepath.Join(dir, "modules")
	defer os.RemoveAll(modules)
	if err := moveModules(ctx, from, filepath.Join(modules, "lib/modules", release)); err != nil {
		return err
	}
	if _, err := command(ctx, "", "depmod", "--basedir", modules, release); err != nil {
		return err
	}
	return pack(ctx, modules, filepath.Join(dir, "modules.cpio"))
}

// moveModules moves the modules that guests get, and unpacks them: a guest would take
// long for that.
func moveModules(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		for _, wanted := range guestModules() {
			if !strings.HasPrefix(name, wanted) {
				continue
			}
			target := filepath.Join(to, name)
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			if err := os.Rename(path, target); err != nil {
				return err
			}
			if strings.HasSuffix(target, ".xz") {
				_, err = command(ctx, "", "xz", "--decompress", target)
			}
			return err
		}
		return nil
	})
}

func first(patterns ...string) (string, error) {
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("the packages have no %s", strings.Join(patterns, " and no "))
}

// pack makes an archive that the kernel unpacks as its first root file system. All
// that is in it belongs to root.
func pack(ctx context.Context, dir, archive string) error {
	var names bytes.Buffer
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(dir, path)
		names.WriteString(name + "\n")
		return errors.Join(err, relErr)
	}); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "cpio", "--create", "--format=newc", "--owner=+0:+0", "--quiet", "--file="+archive)
	cmd.Dir, cmd.Stdin = dir, &names
	return finished(cmd)
}

// command runs a program and returns what it prints.
func command(ctx context.Context, in, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = in
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	err := finished(cmd)
	return stdout.String(), err
}

// finished runs a command; its error holds what it said.
func finished(cmd *exec.Cmd) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return nil
}
