// Package flags registers command-line flags that know their values: what may follow a
// flag is written once, and serves its help, its check and its completion. A value that
// is not allowed fails while the command line is parsed.
package flags

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
)

// Word is one of the few values of a flag.
type Word[T ~string] struct {
	Value T
	// Meaning explains the value, unless the word does. Help and completion show it.
	Meaning string
	// Text is what the user types. The default is Value.
	Text string
}

func (w Word[T]) text() string { return cmp.Or(w.Text, string(w.Value)) }

// Words returns words that explain themselves.
func Words[T ~string](values ...T) []Word[T] {
	return lists.Map(values, func(value T) Word[T] { return Word[T]{Value: value} })
}

// Completions returns what the Tab key offers for words.
func Completions[T ~string](words []Word[T]) []cobra.Completion {
	var offers []cobra.Completion
	for _, w := range words {
		if w.Meaning == "" {
			offers = append(offers, w.text())
		} else {
			offers = append(offers, cobra.CompletionWithDesc(w.text(), w.Meaning))
		}
	}
	return offers
}

// Choice registers a flag that takes one of words. Its help names them where usage has
// "{}", or else at the end. If value is none of them, it is the default that is not named.
func Choice[T ~string](f *pflag.FlagSet, p *T, name, shorthand string, value T, usage string, words []Word[T]) {
	var named []string
	standard := string(value)
	for _, w := range words {
		if w.Value == value {
			standard = w.text()
		}
		text := w.text()
		if w.Meaning != "" {
			text += " (" + w.Meaning + ")"
		}
		named = append(named, text)
	}
	if !strings.Contains(usage, "{}") {
		usage += ": {}"
	}
	add(f, p, name, shorthand, strings.Replace(usage, "{}", or(named), 1), &flag[T]{
		kind: "string", text: standard, offers: Completions(words),
		parse: func(text string) (T, error) {
			if found, ok := Find(words, text); ok {
				return found, nil
			}
			if text != standard {
				return "", api.WithHint(fmt.Errorf("%q is unknown", text), "use "+Enumerate(words))
			}
			return value, nil
		},
	})
}

// Find returns which of words text is.
func Find[T ~string](words []Word[T], text string) (T, bool) {
	for _, w := range words {
		if w.text() == text {
			return w.Value, true
		}
	}
	return "", false
}

// Enumerate names words: "a, b or c".
func Enumerate[T ~string](words []Word[T]) string {
	return or(lists.Map(words, Word[T].text))
}

// or joins words as an enumeration: "a, b or c".
func or(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// Parsed registers a flag whose text parse understands. Unless text, the default, is
// empty, parse must understand it, too. kind is what help calls the value.
func Parsed[T any](f *pflag.FlagSet, p *T, name, kind, text, usage string, parse func(string) (T, error)) {
	add(f, p, name, "", usage, &flag[T]{kind: kind, text: text, parse: parse})
}

// Commas divides a list, Whole leaves a text as it is. See Repeated.
func Commas(text string) []string { return strings.Split(text, ",") }
func Whole(text string) []string  { return []string{text} }

// Repeated registers a flag that may be repeated. Each text is what split divides into what parse
// understands. The word none, unless it is empty, alone stands for no value.
func Repeated[T any](f *pflag.FlagSet, p *[]T, name, kind, none, usage string, split func(string) []string, parse func(string) (T, error)) {
	said := false
	add(f, p, name, "", usage, &flag[[]T]{kind: kind, parse: func(text string) ([]T, error) {
		list, alone := *p, none != "" && text == none
		if said || alone && len(list) > 0 {
			return nil, fmt.Errorf("%q stands alone", none)
		}
		if said = alone; alone {
			return nil, nil
		}
		for _, one := range split(text) {
			parsed, err := parse(strings.TrimSpace(one))
			if err != nil {
				return nil, err
			}
			list = append(list, parsed)
		}
		return list, nil
	}})
}

// Least values of numbers and durations.
const (
	NotNegative = 0
	Positive    = 1
)

// Duration registers a flag with a duration that is at least least.
func Duration(f *pflag.FlagSet, p *time.Duration, name string, value, least time.Duration, usage string) {
	text := value.String()
	if value == 0 {
		text = "0"
	}
	Parsed(f, p, name, "duration", text, usage, func(text string) (time.Duration, error) {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, api.WithHint(fmt.Errorf("%q is not a duration", text), "write it like 90s, 5m or 1h30m")
		}
		return atLeast(text, d, least)
	})
}

// Int registers a flag with a number that is at least least.
func Int[T ~int | ~int64](f *pflag.FlagSet, p *T, name string, value, least T, usage string) {
	IntP(f, p, name, "", value, least, usage)
}

// IntP is Int with a shorthand.
func IntP[T ~int | ~int64](f *pflag.FlagSet, p *T, name, shorthand string, value, least T, usage string) {
	add(f, p, name, shorthand, usage, &flag[T]{kind: "int", text: strconv.FormatInt(int64(value), 10), parse: func(text string) (T, error) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || int64(T(n)) != n {
			return 0, fmt.Errorf("%q is not a number", text)
		}
		return atLeast(text, T(n), least)
	}})
}

func atLeast[T ~int | ~int64](text string, value, least T) (T, error) {
	switch {
	case value >= least:
		return value, nil
	case least == NotNegative:
		return 0, fmt.Errorf("%q is negative", text)
	case least == Positive:
		return 0, fmt.Errorf("%q is not positive", text)
	}
	return 0, fmt.Errorf("%q is below %d", text, least)
}

// flag implements pflag.Value.
type flag[T any] struct {
	to     *T
	kind   string
	parse  func(string) (T, error)
	offers []cobra.Completion
	// text is what was parsed last.
	text string
}

func add[T any](f *pflag.FlagSet, to *T, name, shorthand, usage string, v *flag[T]) {
	v.to = to
	if v.text != "" {
		if err := v.Set(v.text); err != nil {
			// It is a constant of the program.
			panic(fmt.Sprintf("default of --%s: %v", name, err))
		}
	}
	f.VarP(v, name, shorthand, usage)
}

func (v *flag[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err != nil {
		return err
	}
	*v.to, v.text = parsed, text
	return nil
}

func (v *flag[T]) String() string { return v.text }

func (v *flag[T]) Type() string { return v.kind }

func (v *flag[T]) completions() []cobra.Completion { return v.offers }

// Complete returns what completes the values of a flag, nil for the names of files and
// directories that [Files] and [Dirs] have declared.
func Complete(f *pflag.Flag) cobra.CompletionFunc {
	_, files := f.Annotations[cobra.BashCompFilenameExt]
	if _, dirs := f.Annotations[cobra.BashCompSubdirsInDir]; files || dirs {
		return nil
	}
	if v, ok := f.Value.(interface{ completions() []cobra.Completion }); ok && v.completions() != nil {
		if slices.ContainsFunc(v.completions(), open) {
			return completeFormat(v.completions())
		}
		return cobra.FixedCompletions(v.completions(), cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder)
	}
	return cobra.NoFileCompletions
}

// Files declares flags that take the name of a file.
func Files(f *pflag.FlagSet, names ...string) {
	for _, name := range names {
		// The only error is an unknown flag: the shell then offers nothing.
		_ = cobra.MarkFlagFilename(f, name)
	}
}

// Dirs declares flags that take the name of a directory.
func Dirs(f *pflag.FlagSet, names ...string) {
	for _, name := range names {
		_ = cobra.MarkFlagDirname(f, name)
	}
}

// Error puts an error of pflag into words for the user. It is a cobra.Command's
// FlagErrorFunc.
func Error(_ *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	f, cause := invalid.GetFlag(), invalid.Unwrap()
	if _, ok := f.Value.(*flag[format]); ok {
		return cause
	}
	if f.Value.Type() == "bool" {
		cause = fmt.Errorf("%q is neither true nor false", invalid.GetValue())
	}
	if strings.HasPrefix(cause.Error(), `"`) {
		return fmt.Errorf("--%s %w", f.Name, cause)
	}
	return fmt.Errorf("--%s: %w", f.Name, cause)
}
