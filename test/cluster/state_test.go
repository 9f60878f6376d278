//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newTestCluster(t *testing.T) *Cluster {
	t.Helper()
	c, err := openCluster(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpenCluster(t *testing.T) {
	standard, err := openCluster("")
	if err != nil || standard.Dir != defaultDir {
		t.Fatalf("openCluster(\"\") = %+v, %v", standard, err)
	}
	other, err := openCluster(defaultDir + "/../other")
	if err != nil || other.Dir != "/var/lib/other" {
		t.Fatalf("an unclean path gave %+v, %v", other, err)
	}
	if other.ID == standard.ID {
		t.Error("two directories gave one control group")
	}
	for _, dir := range []string{"/", "/with blank", `/with"quote`} {
		if c, err := openCluster(dir); err == nil {
			t.Errorf("openCluster(%q) accepted %+v", dir, c)
		}
	}
}

// What up did not make, neither up nor down may touch.
func TestForeignDirectoryIsLeftAlone(t *testing.T) {
	c := newTestCluster(t)
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	precious := c.path("precious")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.claim(); err == nil || !strings.Contains(err.Error(), "is not a cluster's") {
		t.Errorf("claim = %v", err)
	}
	if err := c.remove(t.Context()); err != nil {
		t.Errorf("remove = %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("a file of somebody else's is gone: %v", err)
	}
}

func TestClaimAndRemove(t *testing.T) {
	c := newTestCluster(t)
	for range 2 { // a second claim takes over what an earlier up left
		if err := c.claim(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.saveSettings(Settings{Nodes: 3, IPv6: true}); err != nil {
		t.Fatal(err)
	}
	if settings, err := c.settings(); err != nil || settings.Nodes != 3 || !settings.IPv6 {
		t.Errorf("settings = %+v, %v", settings, err)
	}
	if err := c.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.Dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestUnits(t *testing.T) {
	c := newTestCluster(t)
	if err := c.claim(); err != nil {
		t.Fatal(err)
	}
	const unit = "node-1/kubelet"
	if _, ok := c.unit(unit, "failed"); ok {
		t.Error("a unit failed before it existed")
	}
	if err := c.setUnit(unit, "failed", "exit status 1"); err != nil {
		t.Fatal(err)
	}
	if value, ok := c.unit(unit, "failed"); !ok || value != "exit status 1" {
		t.Errorf("unit = %q, %v", value, ok)
	}
	c.clearUnit(unit, "failed")
	if _, ok := c.unit(unit, "failed"); ok {
		t.Error("a cleared state is still there")
	}
	// Our own process is alive, but not one of the cluster's.
	if err := c.setUnit(unit, "pid", "1"); err != nil {
		t.Fatal(err)
	}
	if pid, ok := c.unitPID(unit); ok {
		t.Errorf("took the foreign process %d for the cluster's", pid)
	}
}

func TestLockIsExclusive(t *testing.T) {
	c := newTestCluster(t)
	release, err := c.lock(t.Context(), func() { t.Error("waited for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	waiting, locked := make(chan struct{}), make(chan error)
	go func() {
		release, err := c.lock(t.Context(), func() { close(waiting) })
		if err == nil {
			release()
		}
		locked <- err
	}()
	<-waiting
	release()
	if err := <-locked; err != nil {
		t.Error(err)
	}
}
