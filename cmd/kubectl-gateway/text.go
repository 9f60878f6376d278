package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// line makes one harmless line of untrusted text.
func line(text string) string {
	return terminal.Clean(strings.Join(strings.Fields(text), " "))
}

// print prints text; what names it in errors.
func (a *app) print(what, text string) error {
	if _, err := io.WriteString(a.Out, text); err != nil {
		return fmt.Errorf("printing the %s: %w", what, err)
	}
	return nil
}

// printAs prints value in a format of package output.
func (a *app) printAs(what string, value any, format string) error {
	text, err := encode(value, format)
	if err != nil {
		return err
	}
	return a.print(what, text)
}

// encode returns value in a format of package output, harmless to a terminal.
func encode(value any, format string) (string, error) {
	print, err := output.New(format, output.Options{})
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = print(&text, value)
	return text.String(), err
}

// encodeObjects returns objects of the API in a format: as documents in YAML, as a List otherwise.
func encodeObjects(objects []any, format string) (string, error) {
	if format != output.YAML {
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
