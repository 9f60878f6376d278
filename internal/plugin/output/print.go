package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"
	"sigs.k8s.io/yaml/kyaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Printer writes a value. What is written is harmless to a terminal.
type Printer func(w io.Writer, value any) error

func printJSON(w io.Writer, value any) error {
	// The default escapes "<" for HTML.
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "    ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("encoding as JSON: %w", err)
	}
	_, err := w.Write(terminal.CleanJSON([]byte(text.String())))
	return err
}

func printYAML(w io.Writer, value any) error {
	text, err := visible(value)
	if err == nil {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return fmt.Errorf("encoding as YAML: %w", err)
	}
	_, err = w.Write(text)
	return err
}

func printKYAML(w io.Writer, value any) error {
	text, err := visible(value)
	if err == nil {
		err = new(kyaml.Encoder).FromYAML(bytes.NewReader(text), w)
	}
	if err != nil {
		return fmt.Errorf("encoding as KYAML: %w", err)
	}
	return nil
}

// visible returns value as JSON. YAML refuses some unprintable characters, and has no escapes for others.
func visible(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	return terminal.VisibleJSON(text), err
}

// plain returns value as its JSON form is read: maps, slices, strings, numbers of the types
// int64 and float64, and booleans. All strings are printable, keys included.
func plain(value any) (any, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encoding as JSON: %w", err)
	}
	var read any
	if err := utiljson.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("encoding as JSON: %w", err)
	}
	return clean(read), nil
}

func clean(value any) any {
	switch v := value.(type) {
	case string:
		return terminal.Clean(v)
	case []any:
		for i := range v {
			v[i] = clean(v[i])
		}
	case map[string]any:
		printable := make(map[string]any, len(v))
		for key, field := range v {
			printable[terminal.Clean(key)] = clean(field)
		}
		return printable
	}
	return value
}

func newJSONPath(text string, asJSON bool) (Printer, error) {
	path := jsonpath.New("out").AllowMissingKeys(true)
	if err := path.Parse(text); err != nil {
		return nil, fmt.Errorf("error parsing jsonpath %s, %w", text, err)
	}
	path.EnableJSONOutput(asJSON)
	return func(w io.Writer, value any) error {
		read, err := plain(value)
		if err != nil {
			return err
		}
		if err := path.Execute(w, read); err != nil {
			return fmt.Errorf("error executing jsonpath %q: %w", text, err)
		}
		return nil
	}, nil
}
