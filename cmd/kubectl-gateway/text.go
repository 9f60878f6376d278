package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// line makes one harmless line of untrusted text.
func line(text string) string {
	return terminal.Clean(strings.Join(strings.Fields(text), " "))
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
