package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// tellEnabled says what enable did with a pod.
func tellEnabled(result inject.Result, dryRun installed.DryRun) outcome {
	what := "enabled"
	if result.Action == inject.Unchanged {
		what = "already enabled"
	}
	told := outcome{pod: result.Pod, warnings: result.Warnings, err: result.Err,
		done: fmt.Sprintf("gateway %s (%s, %.1fs)%s", what, result.Container, result.Elapsed.Seconds(), dryRunWords(dryRun))}
	if result.Reset > 0 {
		told.notes = []string{fmt.Sprintf("connections from before that were reset: %d", result.Reset)}
	}
	return told
}

// enableItem is the machine-readable result of one pod.
type enableItem struct {
	podItem
	Action    inject.Action `json:"action"`
	Container string        `json:"container,omitempty"`
	// Seconds is how long it took.
	Seconds  float64    `json:"seconds"`
	Identity string     `json:"identity,omitempty"`
	Mode     api.Mode   `json:"mode,omitempty"`
	NotAfter *time.Time `json:"certificateNotAfter,omitempty"`
	// Existing describes the connections from before the gateway, and Reset counts
	// those that were reset.
	Existing *api.ExistingConnections `json:"existing,omitempty"`
	Reset    int                      `json:"reset,omitempty"`
	itemEnd
}

// dryRunObjects returns the objects that enable would send, in a format.
func dryRunObjects(results []inject.Result, format string) (string, error) {
	var objects []any
	for _, result := range results {
		if result.Patch == nil || result.Err != nil {
			continue
		}
		if result.Secret != nil {
			objects = append(objects, result.Secret)
		}
		objects = append(objects, result.Patch)
	}
	if format == "json" {
		return encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": slices.Concat([]any{}, objects)}, format)
	}
	var documents []string
	for _, object := range objects {
		text, err := yaml.Marshal(object)
		if err != nil {
			return "", fmt.Errorf("encoding the results: %w", err)
		}
		documents = append(documents, string(text))
	}
	return strings.Join(documents, "---\n"), nil
}

func newEnableItem(result inject.Result) enableItem {
	item := enableItem{podItem: podItemOf(result.Pod), Action: result.Action, Container: result.Container,
		Seconds: result.Elapsed.Seconds(), itemEnd: itemEndOf(result.Warnings, result.Err)}
	if s := result.Status; s != nil && result.Err == nil {
		item.Identity, item.Mode, item.NotAfter = s.Identity, s.Mode, &s.Cert.NotAfter
		item.Existing, item.Reset = s.Existing, result.Reset
	}
	return item
}
