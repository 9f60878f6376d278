package declared

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// AnnotationUpgrade of a pod or its namespace keeps watch from upgrading gateways with the value
// "false". It is no setting of a gateway.
const AnnotationUpgrade = api.AnnotationPrefix + "upgrade"

// AnnotationMode declares the mode.
const AnnotationMode = api.AnnotationPrefix + "mode"

// Place is an object with annotations.
type Place struct {
	// Name is "pod", "deployment/web" or "namespace/shop", for example.
	Name        string
	Annotations map[string]string
}

// Value is one that somebody has declared.
type Value struct {
	// Setting has nothing but a name if no setting is called like that.
	Setting
	// Text is what the annotation says, From the place where it does.
	Text, From string
	// Err is why that counts for nothing.
	Err error
}

// Settings are what is declared about the gateway of a pod, in the order of the table. What is wrong is among them.
type Settings []Value

// ErrAnnotation is in the chain of what is wrong with annotations.
var ErrAnnotation = errors.New("an annotation cannot be used")

// Resolve returns what is declared in places, of which earlier ones count more. What cannot be read does not give way
// to what is less specific: a typo would loosen what it was to tighten.
func Resolve(places ...Place) Settings {
	var found Settings
	for _, setting := range Table() {
		for _, place := range places {
			text, ok := place.Annotations[setting.Annotation()]
			if !ok {
				continue
			}
			value := Value{Setting: setting, Text: strings.TrimSpace(text), From: place.Name}
			if len(text) > maxText {
				value.Text = ""
				value.Err = value.wrong(fmt.Errorf("%d bytes are more than %d", len(text), maxText))
			} else {
				value.Err = value.wrong(setting.read(new(api.Config), value.Text))
			}
			found = append(found, value)
			break
		}
	}
	found.together()
	return append(found, unknown(places)...)
}

// together finds out whether a gateway takes all rules that can be read. If not, there is none that could be left out.
func (s Settings) together() {
	var c api.Config
	s.Change(&c)
	_, err := c.Rules.Parse()
	for i := range s {
		if v := &s[i]; err != nil && v.Err == nil && (v.Name == "allow" || v.Name == "deny") {
			v.Err = v.wrong(err)
		}
	}
}

// From says whose annotations count.
type From string

const (
	// FromAll heeds pods, workloads and namespaces.
	FromAll From = "all"
	// FromNamespaces heeds namespaces alone, which those who may change pods may usually not change.
	FromNamespaces From = "namespaces"
	// FromNobody heeds none.
	FromNobody From = "none"
)

// Resolve is the function Resolve for those of places that count, the last of which is the namespace. What others declare is wrong.
// The zero value is FromAll.
func (f From) Resolve(places ...Place) Settings {
	last := len(places) - 1
	switch f {
	case FromNobody:
		return nil
	case FromNamespaces:
		found := Resolve(places[last])
		for _, v := range Resolve(places[:last]...) {
			if v.Err == nil {
				v.Err = v.wrong(api.WithHint(errors.New("watch heeds the annotations of namespaces alone"), "declare it at the namespace, or have it removed"))
			}
			v.Setting = Setting{Name: v.Name}
			found = append(found, v)
		}
		return found
	}
	return Resolve(places...)
}

// unknown are annotations with our prefix that are no setting.
func unknown(places []Place) Settings {
	var found Settings
	for _, place := range places {
		for _, key := range slices.Sorted(maps.Keys(place.Annotations)) {
			name, ours := strings.CutPrefix(key, api.AnnotationPrefix)
			if !ours || key == AnnotationUpgrade || slices.ContainsFunc(Table(), func(s Setting) bool { return s.Name == name }) {
				continue
			}
			value := Value{Setting: Setting{Name: name}, Text: place.Annotations[key], From: place.Name}
			value.Err = value.wrong(api.WithHint(errors.New("there is no such setting"), "use one of "+strings.Join(names(), ", ")))
			found = append(found, value)
		}
	}
	return found
}

func names() []string {
	var list []string
	for _, s := range Table() {
		list = append(list, s.Name)
	}
	return list
}

// wrong says where err was found.
func (v *Value) wrong(err error) error {
	if err == nil {
		return nil
	}
	return &annotationError{fmt.Errorf("annotation %s of %s: %w", v.Annotation(), v.From, err)}
}

type annotationError struct{ error }

func (e *annotationError) Unwrap() error        { return e.error }
func (e *annotationError) Is(target error) bool { return target == ErrAnnotation }

// Err joins what is wrong.
func (s Settings) Err() error {
	var list []error
	for _, v := range s {
		list = append(list, v.Err)
	}
	return errors.Join(list...)
}

// Of returns what is declared about the setting called name, nil if nothing is.
func (s Settings) Of(name string) *Value {
	for i := range s {
		if s[i].Name == name {
			return &s[i]
		}
	}
	return nil
}

// Change changes the settings of a gateway that runs to what is declared. What cannot be read stays as it is.
func (s Settings) Change(c *api.Config) {
	for i := range s {
		if s[i].Err == nil {
			// It has been read before.
			_ = s[i].read(c, s[i].Text)
		}
	}
}

// Apply changes the settings of a gateway to be. Where something cannot be read, it keeps out whom it may.
func (s Settings) Apply(c *api.Config) {
	s.Change(c)
	for i := range s {
		if s[i].Err != nil && s[i].close != nil {
			s[i].close(c)
		}
	}
}

// First changes the settings of a sidecar that is to get its first certificate, which is given no other wire. It is nil if
// nothing is declared.
func (s Settings) First() func(*api.Config) {
	inPlace := slices.DeleteFunc(slices.Clone(s), func(v Value) bool { return v.Replaced })
	if len(inPlace) == 0 {
		return nil
	}
	return inPlace.Apply
}

// Missing returns what is declared and not in force at a gateway with the settings of c: what changes in place, and
// what takes another gateway.
func (s Settings) Missing(c *api.Config) (inPlace, replaced Settings) {
	for _, v := range s {
		if !v.Differs(c) {
			continue
		}
		if v.Replaced {
			replaced = append(replaced, v)
		} else {
			inPlace = append(inPlace, v)
		}
	}
	return inPlace, replaced
}

// Differs reports whether v can be read, and c has another value.
func (v *Value) Differs(c *api.Config) bool {
	var own api.Config
	return v.Err == nil && v.read(&own, v.Text) == nil && v.In(&own) != v.In(c)
}

// Overridden says which settings of c are declared otherwise, of those that are given by hand as given says.
func (s Settings) Overridden(c *api.Config, given func(name string) bool) []string {
	var warnings []string
	for _, v := range s {
		if given(v.Name) && v.Differs(c) {
			warnings = append(warnings, fmt.Sprintf("%s %s is given, and %s of %s says %s, which 'watch' brings back", v.Name, v.In(c), v.Annotation(), v.From, v.Text))
		}
	}
	return warnings
}

// String names the values of s and where they come from.
func (s Settings) String() string {
	var list []string
	for _, v := range s {
		list = append(list, fmt.Sprintf("%s=%s of %s", v.Name, v.Text, v.From))
	}
	return strings.Join(list, ", ")
}

// InForce returns the settings that a gateway has told.
func InForce(status *api.Status) *api.Config {
	return &api.Config{
		Mode: status.Mode, Wire: status.Wire, Rules: status.Rules, Named: status.Capture.Named,
		LogConfig: api.LogConfig{Log: cmp.Or(status.Log.Level, api.LogConnections)},
	}
}
