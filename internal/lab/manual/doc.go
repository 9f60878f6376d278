// Package manual turns a tree of commands into its reference, as one page of
// Markdown and as man pages. Help texts are plain text, in which indented lines
// are shown as they are; they are no Markdown, and nothing in them is markup.
//
// Only tests import it, so that the plugin does not carry it.
package manual

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commands returns the commands below root that help would list, depth first.
func commands(root *cobra.Command) []*cobra.Command {
	var found []*cobra.Command
	for _, c := range root.Commands() {
		if c.Hidden || c.Deprecated != "" {
			continue
		}
		found = append(append(found, c), commands(c)...)
	}
	return found
}

// option is one flag as help shows it.
type option struct {
	// names is "-o, --output string".
	names, usage string
	// value is the default, empty if that is the zero value of its type.
	value string
}

func options(flags *pflag.FlagSet) []option {
	var all []option
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" || f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		o := option{names: "--" + f.Name, usage: usage}
		if f.Shorthand != "" {
			o.names = "-" + f.Shorthand + ", " + o.names
		}
		if kind != "" {
			o.names += " " + kind
		}
		switch f.DefValue {
		case "", "0", "0s", "false", "[]", "<nil>":
		default:
			o.value = f.DefValue
		}
		all = append(all, o)
	})
	return all
}

// block is a paragraph, or lines that are to stay as they are.
type block struct {
	verbatim bool
	lines    []string
}

// blocks divides plain text at empty lines, and where an indent begins or ends.
func blocks(text string) []block {
	var all []block
	open := false
	for _, line := range strings.Split(text, "\n") {
		if strings.TrimSpace(line) == "" {
			open = false
			continue
		}
		verbatim := strings.HasPrefix(line, " ")
		if !open || all[len(all)-1].verbatim != verbatim {
			all = append(all, block{verbatim: verbatim})
		}
		last := &all[len(all)-1]
		last.lines = append(last.lines, line)
		open = true
	}
	return all
}

// unindent removes the two spaces that examples are indented by.
func unindent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	return strings.Join(lines, "\n")
}

// usage is the command line of c, with the name that its users type.
func usage(c *cobra.Command) string {
	line := c.UseLine()
	if !c.Runnable() {
		line = c.CommandPath() + " COMMAND"
	}
	return line
}

// explanation is what c's help says above the usage.
func explanation(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short + "."
}
