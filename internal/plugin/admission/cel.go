package admission

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// celContainers is the type of a pod's init containers in expressions of an admission policy.
const celContainers = "Object.spec.initContainers"

// celMaps are the fields of a container that are maps, and no objects.
func celMaps() []string { return []string{"limits", "requests"} }

// celChoice are two objects of the API of one kind, whose expression is the first one where variables.strict is true. Only
// what differs is written twice.
type celChoice struct{ strict, other any }

// celObject writes an object of the API, or a celChoice, as an expression of the given type, one field a line, with
// indent in front of each.
func celObject(object any, kind, indent string) (string, error) {
	choice, ok := object.(celChoice)
	if !ok {
		choice = celChoice{object, object}
	}
	var fields [2]map[string]any
	for i, object := range []any{choice.strict, choice.other} {
		text, err := json.Marshal(object)
		if err != nil {
			return "", fmt.Errorf("writing %s: %w", kind, err)
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&fields[i]); err != nil {
			return "", fmt.Errorf("writing %s: %w", kind, err)
		}
	}
	return celFields(choose(fields[0], fields[1]).(map[string]any), kind, indent), nil
}

// choose returns a with a celChoice in the place of each value that is another one in b.
func choose(a, b any) any {
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok && slices.Equal(slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b))) {
			merged := map[string]any{}
			for name := range a {
				merged[name] = choose(a[name], b[name])
			}
			return merged
		}
	case []any:
		if b, ok := b.([]any); ok && len(a) == len(b) {
			var merged []any
			for i := range a {
				merged = append(merged, choose(a[i], b[i]))
			}
			return merged
		}
	}
	if reflect.DeepEqual(a, b) {
		return a
	}
	return celChoice{a, b}
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
	case celChoice:
		inner := indent + "  "
		return "variables.strict\n" + inner + "? " + celValue(v.strict, kind, inner) + "\n" + inner + ": " + celValue(v.other, kind, inner)
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
