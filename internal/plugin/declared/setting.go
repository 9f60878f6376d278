package declared

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
)

// Setting is one that annotations can declare.
type Setting struct {
	// Name is that of the flag of enable, and of the annotation behind api.AnnotationPrefix.
	Name string
	// Values describes what may be declared, and Default is what holds where nobody says anything.
	Values, Default string
	// Replaced says that a gateway has to be replaced for another value. All others change in place.
	Replaced bool
	// read sets the value that a text stands for, and show is the text for the value of a gateway.
	read func(c *api.Config, text string) error
	show func(c *api.Config) string
	// close sets the narrowest value, if the setting keeps somebody out: a new gateway has that where an
	// annotation cannot be read.
	close func(c *api.Config)
}

// Annotation returns the name of the annotation.
func (s *Setting) Annotation() string { return api.AnnotationPrefix + s.Name }

// In returns the value that the setting has in c.
func (s *Setting) In(c *api.Config) string { return s.show(c) }

// Words for empty lists. Each stands alone.
const (
	everyone = "everyone"
	nobody   = "nobody"
	none     = "none"
)

// Bounds of what annotations may say, so that a gateway can take all of it, together with what it has anyway: a
// gateway that does not start lets everything through. maxText is in bytes.
const (
	maxText       = 32 << 10
	maxSources    = 1000
	maxPortRanges = api.MaxPortRanges / 2
)

// Table returns all settings.
func Table() []Setting {
	return []Setting{
		choice("mode", api.Permissive, Modes(), func(c *api.Config) *api.Mode { return &c.Mode }).closed(func(c *api.Config) { c.Mode = api.Strict }),
		{
			Name: "wire", Values: flags.Enumerate(Wires()), Default: string(api.WireAuto), Replaced: true,
			read: func(c *api.Config, text string) error {
				wire, err := find(Wires(), text)
				if err == nil {
					setWire(c, wire)
				}
				return err
			},
			show: func(c *api.Config) string { return string(c.Wire.OrDefault()) },
		},
		patterns("allow", everyone, func(c *api.Config) *[]string { return &c.Allow }),
		patterns("deny", nobody, func(c *api.Config) *[]string { return &c.Deny }),
		{
			Name: "audit", Values: "true or false", Default: "false",
			read: func(c *api.Config, text string) error {
				if text != "true" && text != "false" {
					return api.WithHint(fmt.Errorf("%.80q is neither true nor false", text), `write "true" or "false"`)
				}
				c.Audit = text == "true"
				return nil
			},
			show:  func(c *api.Config) string { return strconv.FormatBool(c.Audit) },
			close: func(c *api.Config) { c.Audit = false },
		},
		{
			Name: "max-connections-per-peer", Values: "a number, 0 for no bound", Default: "0",
			read: func(c *api.Config, text string) error {
				n, err := strconv.Atoi(text)
				if err != nil || n < 0 {
					return api.WithHint(fmt.Errorf("%.80q is not a number of connections", text), "write it like 100, or 0 for no bound")
				}
				c.MaxPerPeer = n
				return nil
			},
			show: func(c *api.Config) string { return strconv.Itoa(c.MaxPerPeer) },
		},
		{
			Name: "allow-plaintext-from", Values: "address ranges, with ports or without, and commas between them; or " + none, Default: none,
			read: func(c *api.Config, text string) error {
				list, err := split(text, none, func(text string) []string {
					return api.SplitSources(strings.Join(strings.Fields(text), ""))
				}, api.ParseSource)
				if err == nil {
					err = checkSources(list)
				}
				if err == nil {
					c.Named.PlaintextFrom = list
				}
				return err
			},
			show: func(c *api.Config) string {
				return cmp.Or(strings.Join(lists.Texts(api.MergeSources(c.Named.PlaintextFrom)), ","), none)
			},
			close: func(c *api.Config) { c.Named.PlaintextFrom = nil },
		},
		choice("log", api.LogConnections, Logs(), func(c *api.Config) *api.Log { return &c.Log }),
	}
}

// choice is a setting that has one of words.
func choice[T ~string](name string, standard T, words []flags.Word[T], at func(*api.Config) *T) Setting {
	return Setting{
		Name: name, Values: flags.Enumerate(words), Default: string(standard),
		read: func(c *api.Config, text string) error {
			value, err := find(words, text)
			if err == nil {
				*at(c) = value
			}
			return err
		},
		show: func(c *api.Config) string { return string(cmp.Or(*at(c), standard)) },
	}
}

func (s Setting) closed(narrow func(*api.Config)) Setting {
	s.close = narrow
	return s
}

// patterns is a setting with identity rules. Where they cannot be read, nobody is let in.
func patterns(name, word string, at func(*api.Config) *[]string) Setting {
	return Setting{
		Name: name, Values: "identity rules with spaces between them, or " + word, Default: word,
		read: func(c *api.Config, text string) error {
			list, err := split(text, word, strings.Fields, func(text string) (string, error) {
				_, err := api.ParseRule(text)
				return text, err
			})
			if err == nil {
				*at(c) = list
			}
			return err
		},
		show:  func(c *api.Config) string { return cmp.Or(strings.Join(*at(c), " "), word) },
		close: func(c *api.Config) { c.Deny = []string{"ns/*/sa/*"} },
	}
}

func find[T ~string](words []flags.Word[T], text string) (T, error) {
	value, ok := flags.Find(words, text)
	if !ok {
		return "", api.WithHint(fmt.Errorf("%.80q is unknown", text), "use "+flags.Enumerate(words))
	}
	return value, nil
}

// split parses each part of text, which may be word alone for none.
func split[T any](text, word string, parts func(string) []string, parse func(string) (T, error)) ([]T, error) {
	switch words := strings.Fields(text); {
	case len(words) == 0:
		return nil, api.WithHint(errors.New("nothing is in it"), fmt.Sprintf("write %q, or remove the annotation", word))
	case len(words) == 1 && words[0] == word:
		return nil, nil
	case slices.Contains(words, word):
		return nil, fmt.Errorf("%q stands alone", word)
	}
	var list []T
	for _, part := range parts(text) {
		one, err := parse(part)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// checkSources refuses more sources than a gateway may get by annotations, and more ranges of ports for one address.
func checkSources(list []api.Source) error {
	if len(list) > maxSources {
		return fmt.Errorf("%d address ranges are more than %d", len(list), maxSources)
	}
	for _, s := range list {
		var ports []api.PortRange
		for _, wider := range list {
			if wider.From.Bits() <= s.From.Bits() && wider.From.Contains(s.From.Addr()) {
				ports = append(ports, wider.Ports...)
			}
		}
		if n := len(api.NewPorts(ports...)); n > maxPortRanges {
			return fmt.Errorf("for %v there are %d ranges of ports, which is more than %d", s.From, n, maxPortRanges)
		}
	}
	return nil
}

// setWire sets the wire. Only the in-band wire reaches the pods behind a node port, so that which ports of nodes are captured
// follows from it.
func setWire(c *api.Config, wire api.Wire) {
	before := c.Wire.OrDefault()
	c.Wire = wire
	switch {
	case before == wire:
	case wire == api.WirePort:
		c.Named.NodePorts = [2]uint16{}
	case before == api.WirePort:
		c.Named.NodePorts = api.DefaultNodePorts()
	}
}
