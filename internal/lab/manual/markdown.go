package manual

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Markdown returns the reference of all commands below root, as a page with a
// heading for each. introduction stands below the title.
func Markdown(root *cobra.Command, introduction string) string {
	var page strings.Builder
	fmt.Fprintf(&page, "# Reference\n\n%s\n\n%s", strings.TrimSpace(introduction), prose(explanation(root)))
	page.WriteString("| command | |\n| --- | --- |\n")
	for _, c := range commands(root) {
		path := c.CommandPath()
		fmt.Fprintf(&page, "| [`%s`](#%s) | %s |\n", path, strings.ReplaceAll(path, " ", "-"), escape(c.Short))
	}
	for _, c := range commands(root) {
		fmt.Fprintf(&page, "\n## %s\n\n%s```text\n%s\n```\n", c.CommandPath(), prose(explanation(c)), usage(c))
		if c.Example != "" {
			fmt.Fprintf(&page, "\n```console\n%s\n```\n", unindent(c.Example))
		}
		page.WriteString(table(c.LocalNonPersistentFlags()))
	}
	fmt.Fprintf(&page, "\n## Flags of all commands\n%s", table(root.PersistentFlags()))
	return page.String()
}

func table(flags *pflag.FlagSet) string {
	all := options(flags)
	if len(all) == 0 {
		return ""
	}
	var text strings.Builder
	text.WriteString("\n| flag | meaning | default |\n| --- | --- | --- |\n")
	for _, o := range all {
		value := ""
		if o.value != "" {
			value = "`" + o.value + "`"
		}
		fmt.Fprintf(&text, "| `%s` | %s | %s |\n", o.names, escape(o.usage), value)
	}
	return text.String()
}

func prose(text string) string {
	var out strings.Builder
	for _, b := range blocks(text) {
		if b.verbatim {
			fmt.Fprintf(&out, "```text\n%s\n```\n\n", strings.Join(b.lines, "\n"))
			continue
		}
		fmt.Fprintf(&out, "%s\n\n", escape(strings.Join(b.lines, "\n")))
	}
	return out.String()
}

// escape keeps plain text from being taken for Markdown.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "`", "\\`", "<", `\<`, "[", `\[`, "|", `\|`).Replace(text)
}
