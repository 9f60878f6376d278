package flags

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
)

// format is the text of -o.
type format string

// Format registers -o/--output. value is the default, words are the verb's own formats, and
// templates those of package output that it has besides. Errors are kubectl's.
func Format(f *pflag.FlagSet, p *string, value string, words []Word[string], templates ...string) {
	var named, own []string
	for _, w := range words {
		own = append(own, w.Value)
		text := w.Value
		if w.Meaning != "" {
			text += " (" + w.Meaning + ")"
		}
		named = append(named, text)
	}
	offers := Completions(words)
	for _, name := range templates {
		named, offers = append(named, name+"=..."), append(offers, name+"=")
	}
	allowed := slices.Concat(own, templates)
	add(f, (*format)(p), "output", "o", "output format: "+or(named), &flag[format]{
		kind: "string", text: value, offers: offers,
		parse: func(text string) (format, error) {
			// The words and the default need no argument.
			if text == value || slices.Contains(own, text) {
				return format(text), nil
			}
			text, err := output.Parse(text, allowed)
			return format(text), err
		},
	})
}

// open reports whether more follows an offer.
func open(offer cobra.Completion) bool { return strings.HasSuffix(offer, "=") }

// completeFormat completes formats. No space follows those with an argument.
func completeFormat(offers []cobra.Completion) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		found := slices.DeleteFunc(slices.Clone(offers), func(offer cobra.Completion) bool { return !strings.HasPrefix(offer, typed) })
		directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
		if !slices.ContainsFunc(found, func(offer cobra.Completion) bool { return !open(offer) }) {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return found, directive
	}
}
