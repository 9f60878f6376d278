package main

import (
	"fmt"
	"io"
	"strings"

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
