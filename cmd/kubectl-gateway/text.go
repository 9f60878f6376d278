package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/yaml"

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

// printAs prints value as json or yaml.
func (a *app) printAs(what string, value any, format string) error {
	text, err := encode(value, format)
	if err != nil {
		return err
	}
	return a.print(what, text)
}

// encode returns value as json or yaml, harmless to a terminal.
func encode(value any, output string) (string, error) {
	if output == "yaml" {
		text, err := yaml.Marshal(value)
		if err != nil {
			return "", fmt.Errorf("encoding as YAML: %w", err)
		}
		return string(text), nil
	}
	// The default escapes "<" for HTML.
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "    ")
	if err := encoder.Encode(value); err != nil {
		return "", fmt.Errorf("encoding as JSON: %w", err)
	}
	return string(terminal.CleanJSON([]byte(text.String()))), nil
}
