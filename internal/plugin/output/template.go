package output

import (
	"encoding/base64"
	"fmt"
	"io"

	// Go's own text/template calls methods by name. This is the same without methods.
	template "github.com/DataDog/datadog-agent/pkg/template/text"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

func newGoTemplate(text string) (Printer, error) {
	parsed, err := template.New("output").Funcs(template.FuncMap{"exists": exists, "base64decode": decode}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("error parsing template %s, %w", text, err)
	}
	return func(w io.Writer, value any) error {
		read, err := plain(value)
		if err != nil {
			return err
		}
		if err := parsed.Execute(w, read); err != nil {
			return fmt.Errorf("error executing template %q: %w", text, err)
		}
		return nil
	}, nil
}

// exists reports whether value has what the keys of maps and the indices of slices lead to.
func exists(value any, path ...any) bool {
	for _, step := range path {
		switch v := value.(type) {
		case map[string]any:
			key, ok := step.(string)
			field, found := v[key]
			if !ok || !found {
				return false
			}
			value = field
		case []any:
			i, ok := step.(int)
			if !ok || i < 0 || i >= len(v) {
				return false
			}
			value = v[i]
		default:
			return false
		}
	}
	return true
}

func decode(text string) (string, error) {
	content, err := base64.StdEncoding.DecodeString(text)
	return terminal.Clean(string(content)), err
}
