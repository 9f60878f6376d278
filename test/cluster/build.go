//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// programsModule is the directory, below our sources, of the module that all programs are
// built from; its go.mod has their versions.
const programsModule = "programs"

// program is one Go program that the cluster is made of.
type program struct {
	// Name is that of the executable in the cache.
	Name string
	// Links are the further names that it is called by.
	Links []string
	// Dir is where go build runs, below our sources.
	Dir string
	// Package is what to build.
	Package string
	// Tags are build constraints, separated by commas.
	Tags string
	// Of is the module whose version is the program's, "" for one of ours.
	Of string
	// Stamp is a linker variable to set to that version, or "".
	Stamp string
	// Hint tells how long the first build takes.
	Hint string
}

func programs() []program {
	const (
		containerd = "github.com/containerd/containerd/v2"
		// Snapshotters of file systems that the nodes do not have, and tracing.
		without = "no_btrfs,no_devmapper,no_zfs,no_tracing"
	)
	return []program{
		{Name: "kube", Dir: programsModule, Package: "./kube", Of: "k8s.io/kubernetes",
			Links: []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"},
			Stamp: "k8s.io/component-base/version.gitVersion",
			Hint:  "about 6 minutes on two cores, the first time only"},
		{Name: "containerd", Dir: programsModule, Package: containerd + "/cmd/containerd", Tags: without, Of: containerd,
			Hint: "about a minute, the first time only"},
		{Name: "containerd-shim-runc-v2", Dir: programsModule, Package: containerd + "/cmd/containerd-shim-runc-v2", Tags: without, Of: containerd},
		{Name: "ctr", Dir: programsModule, Package: containerd + "/cmd/ctr", Tags: without, Of: containerd},
		{Name: "coredns", Dir: programsModule, Package: "./coredns", Of: "github.com/coredns/coredns"},
		{Name: "pause", Dir: ".", Package: "./images/pause"},
	}
}

// builder builds programs into a cache that outlives the cluster.
type builder struct {
	sources  string // the directory of this file
	cache    string
	cgroup   *os.File // compilers run in it, so that down can end them; may be nil
	progress *progress
}

// newBuilder finds the sources and the cache,
// $XDG_CACHE_HOME/kubectl-gateway/cluster.
func newBuilder(progress *progress, cgroup *os.File) (*builder, error) {
	sources, err := findSources()
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("finding the cache directory: %w", err)
	}
	return &builder{sources, filepath.Join(cache, "kubectl-gateway", "cluster"), cgroup, progress}, nil
}

// findSources returns the directory of this module: the current one, as for
// "go run .", or else the one of the tree that this program is in the bin of.
func findSources() (string, error) {
	var candidates []string
	if dir, err := os.Getwd(); err == nil {
		candidates = append(candidates, dir, filepath.Join(dir, "test", "cluster"))
	}
	if program, err := os.Executable(); err == nil {
		candidates = append(candidates, filepath.Join(filepath.Dir(program), "..", "test", "cluster"))
	}
	for _, dir := range candidates {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module github.com/kubectl-gateway/kubectl-gateway/test/cluster\n")) {
			return dir, nil
		}
	}
	return "", withHint(errors.New("the sources of the cluster's programs are not here"), "run this in test/cluster of a checkout")
}

// all returns the executable of every program, built now where the cache has none.
func (b *builder) all(ctx context.Context) (map[string]string, error) {
	executables := map[string]string{}
	for _, p := range programs() {
		executable, err := b.one(ctx, p)
		if err != nil {
			return nil, err
		}
		executables[p.Name] = executable
	}
	return executables, nil
}

func (b *builder) one(ctx context.Context, p program) (string, error) {
	version, err := b.version(p)
	if err != nil {
		return "", err
	}
	key, err := b.key(ctx, p)
	if err != nil {
		return "", err
	}
	// The name's last element is the program's own, as some look at argv[0].
	dir := filepath.Join(b.cache, p.Name+"-"+version+"-"+key)
	executable := filepath.Join(dir, p.Name)
	if _, err := os.Stat(executable); err == nil {
		return executable, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache: %w", err)
	}
	temporary, err := os.MkdirTemp(b.cache, ".build-")
	if err != nil {
		return "", fmt.Errorf("making the cache: %w", err)
	}
	defer os.RemoveAll(temporary)
	if err := b.compile(ctx, p, version, filepath.Join(temporary, p.Name)); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(temporary, p.Name), executable); err != nil {
		return "", fmt.Errorf("filling the cache: %w", err)
	}
	return executable, nil
}

// version is that of the program's main dependency, for people and for --version.
func (b *builder) version(p program) (string, error) {
	if p.Of == "" {
		return "local", nil
	}
	text, err := os.ReadFile(filepath.Join(b.sources, p.Dir, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("reading a version: %w", err)
	}
	return requiredVersion(string(text), p.Of)
}

// environment is that of every go command: the Go of our go.mod, whatever the machine's
// own is, and none of the flags (-mod=vendor, -race, …) of the caller's own project.
func (b *builder) environment() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(b.sources, "go.mod"))
	if err != nil {
		return nil, fmt.Errorf("reading the version of Go: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if version, ok := strings.CutPrefix(line, "go "); ok {
			return append(os.Environ(), "GOTOOLCHAIN=go"+strings.TrimSpace(version), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off"), nil
		}
	}
	return nil, errors.New("go.mod does not say which Go it needs")
}

// requiredVersion returns the version of a module in the text of a go.mod.
func requiredVersion(gomod, module string) (string, error) {
	for line := range strings.Lines(gomod) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == module && strings.HasPrefix(fields[1], "v") {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("go.mod does not require %s", module)
}

// key changes with everything that the executable depends on.
func (b *builder) key(ctx context.Context, p program) (string, error) {
	env, err := b.environment()
	if err != nil {
		return "", err
	}
	toolchain := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOOS", "GOARCH")
	toolchain.Dir, toolchain.Env = b.sources, env
	versions, err := toolchain.Output()
	if err != nil {
		return "", withHint(fmt.Errorf("asking for the version of Go: %w", err), "install Go and put it on PATH")
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\n%+v\n%s\n", versions, p, buildFlags(p, "", ""))
	patterns := []string{filepath.Join(p.Dir, "go.mod"), filepath.Join(p.Dir, "go.sum")}
	if strings.HasPrefix(p.Package, ".") {
		patterns = append(patterns, filepath.Join(p.Dir, p.Package, "*.go"))
	}
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(b.sources, pattern))
		if err != nil {
			return "", fmt.Errorf("listing sources: %w", err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return "", fmt.Errorf("reading sources: %w", err)
			}
			fmt.Fprintf(hash, "%s %d\n%s", filepath.Base(file), len(data), data)
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// buildFlags are those of a build; the hash of an executable contains them.
func buildFlags(p program, version, output string) []string {
	link := "-s -w"
	if p.Stamp != "" {
		link += " -X " + p.Stamp + "=" + version
	}
	return []string{"-v", "-trimpath", "-buildvcs=false", "-tags", p.Tags, "-ldflags", link, "-o", output}
}

func (b *builder) compile(ctx context.Context, p program, version, output string) error {
	what := "building " + p.Name + " " + version
	if p.Hint != "" {
		what += " (" + p.Hint + ")"
	}
	defer b.progress.step(what)()

	env, err := b.environment()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build"}, buildFlags(p, version, output), []string{p.Package})...)
	cmd.Dir, cmd.Env = filepath.Join(b.sources, p.Dir), env
	if b.cgroup != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(b.cgroup.Fd())}
	}
	watcher := &buildWatcher{}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting go: %w", err)
	}
	beat, stop := context.WithCancel(ctx)
	defer stop()
	go watcher.count(beat, cmd, p)
	go b.progress.heartbeat(beat, 15*time.Second, watcher.String)
	watcher.read(stderr)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("building %s: %w", p.Name, context.Cause(ctx))
		}
		return fmt.Errorf("building %s: %w\n%s", p.Name, err, strings.Join(watcher.other, "\n"))
	}
	return nil
}

// buildWatcher reads the output of "go build -v": one line a compiled package
// or downloaded module, and errors among them.
type buildWatcher struct {
	packages, modules atomic.Int64
	total             atomic.Int64 // packages at most, 0 while unknown
	other             []string     // the last lines that are neither
}

// count finds out how many packages a build has, for an idea of its end; those
// in the compiler's cache will not be mentioned.
func (w *buildWatcher) count(ctx context.Context, build *exec.Cmd, p program) {
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-tags", p.Tags, p.Package)
	list.Dir, list.Env, list.SysProcAttr = build.Dir, build.Env, build.SysProcAttr
	if output, err := list.Output(); err == nil {
		w.total.Store(int64(bytes.Count(output, []byte("\n"))))
	}
}

func (w *buildWatcher) read(output io.Reader) {
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "go: downloading "):
			w.modules.Add(1)
		case strings.ContainsAny(line, " \t:"):
			w.other = append(w.other, line)
			w.other = w.other[max(0, len(w.other)-20):]
		default:
			w.packages.Add(1)
		}
	}
	// A line too long to scan must not stop the writer.
	_, _ = io.Copy(io.Discard, output)
}

func (w *buildWatcher) String() string {
	text := fmt.Sprintf("%d packages compiled", w.packages.Load())
	if total := w.total.Load(); total > 0 {
		text = fmt.Sprintf("%d of at most %d packages compiled", w.packages.Load(), total)
	}
	if n := w.modules.Load(); n > 0 {
		text = fmt.Sprintf("%d modules downloaded, ", n) + text
	}
	return text
}
