//go:build linux

package supervisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// populate writes what the kernel says of a container's cgroup.
func populate(t *testing.T, pod, name string, populated bool) string {
	t.Helper()
	dir := filepath.Join(pod, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "populated 0\nfrozen 0\n"
	if populated {
		text = "populated 1\nfrozen 0\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.events"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestGatewayOutlivesTheApplication(t *testing.T) {
	pod := t.TempDir()
	own := populate(t, pod, "gateway", true)
	populate(t, pod, "sandbox", true)
	populate(t, pod, "init", false)
	populate(t, pod, "app", true)
	if !applicationRuns(pod, own) {
		t.Error("a running application is not noticed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	waitForApplication(ctx, pod, own) // returns all the same, as ctx is done

	populate(t, pod, "app", false)
	if applicationRuns(pod, own) {
		t.Error("the sandbox and the gateway itself are taken for the application")
	}
	waitForApplication(t.Context(), pod, own)
}

func TestLastWords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "termination-log")
	err := api.WithHint(errors.New("it broke"), "mend it")
	LastWords(path, err)
	if _, statErr := os.Stat(path); statErr == nil {
		t.Error("a file was created that the kubelet did not provide")
	}
	if writeErr := os.WriteFile(path, []byte("the words of an earlier start, which were longer"), 0o644); writeErr != nil {
		t.Fatal(writeErr)
	}
	LastWords(path, err)
	if text, _ := os.ReadFile(path); string(text) != "it broke\nhint: mend it" {
		t.Errorf("the last words are %q", text)
	}
	LastWords(path, errors.New(strings.Repeat("x", 2*maxTerminationMessage)))
	if text, _ := os.ReadFile(path); len(text) != maxTerminationMessage {
		t.Errorf("%d bytes were left, the kubelet keeps %d", len(text), maxTerminationMessage)
	}
}
