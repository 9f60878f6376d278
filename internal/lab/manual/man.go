package manual

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Man returns the man pages of root and all commands below it, by file name. The
// format is man(7)'s. Pages have no date: they are the same at every build.
func Man(root *cobra.Command) map[string]string {
	pages := map[string]string{}
	all := append([]*cobra.Command{root}, commands(root)...)
	for _, c := range all {
		pages[name(c)+".1"] = man(root, c, all)
	}
	return pages
}

// name is a command's name as a man page: kubectl's pages are called alike.
func name(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func man(root, c *cobra.Command, all []*cobra.Command) string {
	var page strings.Builder
	fmt.Fprintf(&page, ".TH \"%s\" \"1\" \"\" \"kubectl-gateway\" \"User Commands\"\n", strings.ToUpper(name(c)))
	fmt.Fprintf(&page, ".SH NAME\n%s \\- %s\n", roff(name(c)), roff(c.Short))
	fmt.Fprintf(&page, ".SH SYNOPSIS\n.nf\n%s\n.fi\n", roff(usage(c)))
	page.WriteString(".SH DESCRIPTION\n")
	for i, b := range blocks(explanation(c)) {
		if i > 0 {
			page.WriteString(".PP\n")
		}
		text := roff(strings.Join(b.lines, "\n"))
		if b.verbatim {
			text = ".nf\n" + text + "\n.fi"
		}
		page.WriteString(text + "\n")
	}
	local, title := options(c.LocalNonPersistentFlags()), "OPTIONS"
	if c == root {
		local, title = options(root.PersistentFlags()), "OPTIONS OF ALL COMMANDS"
	}
	if len(local) > 0 {
		fmt.Fprintf(&page, ".SH %s\n", title)
	}
	for _, o := range local {
		meaning := o.usage
		if o.value != "" {
			meaning += " (default " + o.value + ")"
		}
		fmt.Fprintf(&page, ".TP\n.B %s\n%s\n", roff(o.names), roff(meaning))
	}
	if c.Example != "" {
		fmt.Fprintf(&page, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(unindent(c.Example)))
	}
	page.WriteString(".SH SEE ALSO\n")
	var others []string
	for _, other := range all {
		if other != c {
			others = append(others, ".BR "+roff(name(other))+" (1)")
		}
	}
	page.WriteString(strings.Join(others, " ,\n") + "\n")
	return page.String()
}

// roff keeps plain text from being taken for requests and escapes. Hyphens are
// minus signs, so that options can be copied.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "√", "\\[sr]", "×", "\\[mu]", "‼", "!!").Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
