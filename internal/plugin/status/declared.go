package status

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Where a setting comes from that no annotation declares.
const (
	// FromDefault is a value that holds where nobody says anything.
	FromDefault = "default"
	// FromCommand is one that was given when the gateway was added, or has been changed since.
	FromCommand = "command"
)

// Setting is one of a gateway that annotations can declare.
type Setting struct {
	Name string `json:"name"`
	// Value is what is in force.
	Value string `json:"value,omitempty"`
	// From is the object whose annotation declares that, such as pod, deployment/web or namespace/shop, or else FromDefault
	// or FromCommand. It is empty if the annotations may not be read.
	From string `json:"from,omitempty"`
	// Declared is what an annotation says and what is not in force.
	Declared *Declared `json:"declared,omitempty"`
}

// Declared is what an annotation says.
type Declared struct {
	Value string `json:"value"`
	From  string `json:"from"`
	// Error is why it cannot be used.
	Error string `json:"error,omitempty"`
}

// declare reads what annotations say about the gateways that have answered.
func (c *Collector) declare(ctx context.Context, pods []corev1.Pod, list *List) {
	if c.Client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	reader := declared.NewReader(ctx, c.Client)
	indexes := make([]int, len(pods))
	for i := range indexes {
		indexes[i] = i
	}
	unread := parallel.Each(DefaultParallel, indexes, func(i *int) error {
		item := &list.Items[*i]
		if item.Status == nil || item.State == Draining || item.State == Disabled || item.State == Uncertified {
			return nil // one that leaves gets nothing, and one without a certificate gets it with that
		}
		settings, unread := reader.Read(&pods[*i])
		item.Declare(settings, len(unread) == 0)
		return cmp.Or(append(unread, nil)...)
	}, nil)
	if err := cmp.Or(unread...); err != nil {
		list.NotDeclared = "where settings come from is not known of all gateways: " + err.Error()
	}
}

// Declare notes where the settings of i come from, and what is wrong with those that are declared. known says that all
// annotations were read.
func (i *Item) Declare(settings declared.Settings, known bool) {
	c := declared.InForce(i.Status)
	for _, s := range declared.Table() {
		setting := Setting{Name: s.Name, Value: s.In(c)}
		v := settings.Of(s.Name)
		switch {
		case v != nil && v.Err == nil && !v.Differs(c):
			setting.From = v.From
		case !known:
		case setting.Value == s.Default:
			setting.From = FromDefault
		default:
			setting.From = FromCommand
		}
		if v != nil && v.From != setting.From {
			setting.Declared = declaredOf(v)
		}
		i.Settings = append(i.Settings, setting)
	}
	for n := range settings {
		v := &settings[n]
		if v.Default == "" {
			i.Settings = append(i.Settings, Setting{Name: v.Name, Declared: declaredOf(v)})
		}
		i.judgeDeclared(v, c)
	}
}

func declaredOf(v *declared.Value) *Declared {
	d := &Declared{Value: v.Text, From: v.From}
	if v.Err != nil {
		d.Error = v.Err.Error()
	}
	return d
}

// judgeDeclared notes a setting that was declared and is not in force.
func (i *Item) judgeDeclared(v *declared.Value, c *api.Config) {
	switch {
	case v.Err != nil:
		i.first(Warning, v.Err.Error(), api.Hint(v.Err))
	case !v.Differs(c):
	case v.Replaced:
		i.first(Note, fmt.Sprintf("%s says %s=%s, and the gateway has %s", v.From, v.Annotation(), v.Text, v.In(c)),
			fmt.Sprintf("'kubectl gateway enable pod/%s -n %s --replace' brings it that, and so does 'kubectl gateway watch --replace'", i.Pod, i.Namespace))
	default:
		i.first(Warning, fmt.Sprintf("%s says %s=%s, and the gateway has %s", v.From, v.Annotation(), v.Text, v.In(c)),
			"'kubectl gateway watch' brings it that, unless its --annotations says otherwise")
	}
}

// declared names the settings that annotations declare, and marks what is not in force.
func (i *Item) declared() terminal.Cell {
	var cell terminal.Cell
	var words []string
	for _, s := range i.Settings {
		switch {
		case s.Declared != nil:
			words = append(words, s.Name+"!"+s.Declared.From)
			cell.Tone = terminal.Caution
		case s.From != "" && s.From != FromDefault && s.From != FromCommand:
			words = append(words, s.Name+":"+s.From)
		}
	}
	cell.Text = strings.Join(words, ",")
	return cell
}
