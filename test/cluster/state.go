//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// dirVariable names the environment variable that moves the state directory.
	dirVariable = "KUBE_GATEWAY_CLUSTER_DIR"
	// defaultDir is on a disk and not under /run, which is often a small tmpfs:
	// it holds images and container file systems.
	defaultDir = "/var/lib/kubectl-gateway-cluster"
	// markerFile tells a directory that up made, and down may remove, from any other.
	markerFile = ".kubectl-gateway-cluster"
)

// Cluster is one cluster on this machine, running or not. Its state directory
// identifies it: two directories are two clusters that share nothing.
type Cluster struct {
	// Dir is the absolute path of the state directory.
	Dir string
	// ID is derived from Dir and names the control group.
	ID string
}

// openCluster returns the cluster of a state directory, "" for the default one.
// It changes nothing.
func openCluster(dir string) (*Cluster, error) {
	if dir == "" {
		dir = defaultDir
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding the state directory: %w", err)
	}
	if dir == "/" || strings.ContainsAny(dir, " \"'\\\n") {
		return nil, withHint(fmt.Errorf("cannot keep a cluster in %q", dir), "set "+dirVariable+" to a path of its own, without blanks or quotes")
	}
	sum := sha256.Sum256([]byte(dir))
	return &Cluster{Dir: dir, ID: "kubectl-gateway-cluster-" + hex.EncodeToString(sum[:4])}, nil
}

// Settings are what up decided and the background processes need to know.
type Settings struct {
	Nodes int `json:"nodes"`
	// Spare nodes have namespaces, a network and certificates, and nothing runs in them. They
	// come behind the others.
	Spare      int    `json:"spare,omitempty"`
	IPv6       bool   `json:"ipv6"`
	CNIPlugins string `json:"cniPlugins"` // directory
}

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.Dir}, elements...)...)
}

// BinDir holds the cluster's programs, kubectl among them, for a PATH.
func (c *Cluster) BinDir() string { return c.path("bin") }

func (c *Cluster) bin(name string) string { return c.path("bin", name) }

// Kubeconfig is the administrator's; it works from the machine's own shell.
func (c *Cluster) Kubeconfig() string { return c.path("kubeconfig") }

func (c *Cluster) logFile(unit string) string {
	return c.path("log", strings.ReplaceAll(unit, "/", "-")+".log")
}

// claim makes the state directory, or accepts one that an earlier up made.
func (c *Cluster) claim() error {
	entries, err := os.ReadDir(c.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("reading the state directory: %w", err)
	case len(entries) > 0 && !c.claimed():
		return withHint(fmt.Errorf("%s is not empty and is not a cluster's", c.Dir), "set "+dirVariable+" to another path")
	}
	// The marker comes first, so that down recognizes even a half-made directory.
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	if err := os.WriteFile(c.path(markerFile), []byte(c.ID+"\n"), 0o644); err != nil {
		return fmt.Errorf("marking the state directory: %w", err)
	}
	for _, dir := range []string{"bin", "log", "run", "control-plane"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return fmt.Errorf("making the state directory: %w", err)
		}
	}
	return os.MkdirAll(c.path("pki"), 0o700)
}

// claimed tells whether the state directory is one that up made.
func (c *Cluster) claimed() bool {
	_, err := os.Stat(c.path(markerFile))
	return err == nil
}

func (c *Cluster) saveSettings(settings Settings) error {
	data, err := json.Marshal(settings)
	if err != nil {
		return fmt.Errorf("encoding the settings: %w", err)
	}
	return writeFile(c.path("settings.json"), data, 0o644)
}

// settings reads what up saved; fs.ErrNotExist when there is no cluster.
func (c *Cluster) settings() (Settings, error) {
	var settings Settings
	data, err := os.ReadFile(c.path("settings.json"))
	if err != nil {
		return settings, fmt.Errorf("reading the settings: %w", err)
	}
	if err := json.Unmarshal(data, &settings); err != nil {
		return settings, fmt.Errorf("decoding the settings: %w", err)
	}
	return settings, nil
}

// The state of a unit ("node-1", "node-1/kubelet", …) is in files of run/,
// written by the process that runs it and read by up and status.

func (c *Cluster) unitFile(unit, what string) string {
	return c.path("run", strings.ReplaceAll(unit, "/", "-")+"."+what)
}

func (c *Cluster) setUnit(unit, what, value string) error {
	return writeFile(c.unitFile(unit, what), []byte(value+"\n"), 0o644)
}

// clearUnit takes back what setUnit wrote.
func (c *Cluster) clearUnit(unit, what string) {
	_ = os.Remove(c.unitFile(unit, what)) // mostly there was nothing
}

// unit returns what setUnit wrote, and whether it did.
func (c *Cluster) unit(unit, what string) (string, bool) {
	data, err := os.ReadFile(c.unitFile(unit, what))
	return string(bytes.TrimSpace(data)), err == nil
}

// awaitUnit waits until setUnit has been called.
func (c *Cluster) awaitUnit(ctx context.Context, unit, what string) error {
	return await(ctx, func() error {
		if _, ok := c.unit(unit, what); !ok {
			return fmt.Errorf("%s has not reported %s", unit, what)
		}
		return nil
	})
}

// unitPID returns the process of a unit if it is alive and one of this
// cluster's: a recorded number alone could meanwhile be another process's.
func (c *Cluster) unitPID(unit string) (int, bool) {
	text, ok := c.unit(unit, "pid")
	if !ok {
		return 0, false
	}
	pid, err := strconv.Atoi(text)
	if err != nil {
		return 0, false
	}
	return pid, c.owns(pid)
}

// lock keeps other ups and downs of this cluster out until the returned
// function is called or the process ends. An abstract socket is the lock: the
// kernel frees it with the process, and it leaves no file.
func (c *Cluster) lock(ctx context.Context, waiting func()) (release func(), err error) {
	for told := false; ; {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", "@"+c.ID)
		if err == nil {
			return func() { listener.Close() }, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !isAddressInUse(err) {
			return nil, fmt.Errorf("locking the cluster: %w", err)
		}
		if !told {
			told = true
			waiting()
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// writeFile writes a file that readers see either whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// pause waits, or returns the context's error when that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// await calls condition until it returns nil, and returns its last error when
// the context ends first.
func await(ctx context.Context, condition func() error) error {
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("%w (gave up: %w)", err, context.Cause(ctx))
		}
	}
}
