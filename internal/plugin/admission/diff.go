package admission

import (
	"fmt"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// diffContext is how many lines around a change are shown, as by diff -u.
const diffContext = 3

// Diff returns what would change if live became wanted, as a unified diff of YAML; "" is nothing.
func Diff(live, wanted Objects) (string, error) {
	next, _ := merge(live, wanted)
	var text strings.Builder
	before, after := plain(live), plain(next)
	for i := range after {
		was, is, err := asYAML(before[i], after[i])
		if err != nil {
			return "", err
		}
		part, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
			A: difflib.SplitLines(was), B: difflib.SplitLines(is), Context: diffContext,
			FromFile: names()[i] + " (live)", ToFile: names()[i] + " (wanted)",
		})
		if err != nil {
			return "", fmt.Errorf("comparing %s: %w", names()[i], err)
		}
		text.WriteString(part)
	}
	return text.String(), nil
}

// names are those of both objects, as plain returns them.
func names() [2]string {
	return [2]string{"mutatingadmissionpolicy/" + Name, "mutatingadmissionpolicybinding/" + Name}
}

// plain returns both objects without what the server alone writes, nil for one that there is not.
func plain(o Objects) (list [2]any) {
	strip := func(m *metav1.ObjectMeta) {
		*m = metav1.ObjectMeta{Name: m.Name, Labels: m.Labels, Annotations: m.Annotations}
	}
	if o.Policy != nil {
		policy := o.Policy.DeepCopy()
		strip(&policy.ObjectMeta)
		list[0] = policy
	}
	if o.Binding != nil {
		binding := o.Binding.DeepCopy()
		strip(&binding.ObjectMeta)
		list[1] = binding
	}
	return list
}

// Plain returns the objects that there are, without what the server alone writes.
func Plain(o Objects) []any {
	var list []any
	for _, object := range plain(o) {
		if object != nil {
			list = append(list, object)
		}
	}
	return list
}

func asYAML(was, is any) (string, string, error) {
	texts := [2]string{}
	for i, object := range []any{was, is} {
		if object == nil {
			continue
		}
		text, err := yaml.Marshal(object)
		if err != nil {
			return "", "", fmt.Errorf("writing an object: %w", err)
		}
		texts[i] = string(text)
	}
	return texts[0], texts[1], nil
}
