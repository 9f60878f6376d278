package admission

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// celContainers is the type of a pod's init containers in expressions of an admission policy.
const celContainers = "Object.spec.initContainers"

// celMaps are the fields of a container that are maps, and no objects.
func celMaps() []string { return []string{"limits", "requests"} }

// celObject writes an object of the API as an expression of the given type, one field a line, with
// indent in front of each.
func celObject(object any, kind, indent string) (string, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return "", fmt.Errorf("writing %s: %w", kind, err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var fields map[string]any
	if err := decoder.Decode(&fields); err != nil {
		return "", fmt.Errorf("writing %s: %w", kind, err)
	}
	return celFields(fields, kind, indent), nil
}

func celFields(fields map[string]any, kind, indent string) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		inner := indent + "  "
		value := ""
		if object, ok := fields[name].(map[string]any); ok && slices.Contains(celMaps(), name) {
			value = celMap(object)
		} else {
			value = celValue(fields[name], kind+"."+name, inner)
		}
		lines = append(lines, inner+name+": "+value)
	}
	return kind + "{\n" + strings.Join(lines, ",\n") + "\n" + indent + "}"
}

// celMap writes a map of quantities.
func celMap(values map[string]any) string {
	var entries []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		entries = append(entries, celText(name)+": "+celValue(values[name], "", ""))
	}
	return "{" + strings.Join(entries, ", ") + "}"
}

func celValue(value any, kind, indent string) string {
	switch v := value.(type) {
	case map[string]any:
		return celFields(v, kind, indent)
	case []any:
		inner := indent + "  "
		var items []string
		for _, item := range v {
			items = append(items, inner+celValue(item, kind, inner))
		}
		return "[\n" + strings.Join(items, ",\n") + "\n" + indent + "]"
	case string:
		return celText(v)
	}
	// Numbers and booleans are written alike in both languages.
	return fmt.Sprint(value)
}

// celText writes a string. What JSON escapes, CEL reads (https://github.com/google/cel-spec, string literals).
func celText(text string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	// A string can always be encoded.
	_ = encoder.Encode(text)
	return strings.TrimSpace(b.String())
}
