package flags

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func formats() (*string, *pflag.FlagSet) {
	var text string
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	Format(f, &text, "table", []Word[string]{{Value: "table"}, {Value: "dot", Meaning: "a graph"}}, "jsonpath", "jsonpath-as-json")
	return &text, f
}

func TestFormat(t *testing.T) {
	for given, want := range map[string]string{
		"":              "table",
		"-odot":         "dot",
		"--output=dot":  "dot",
		"-ojsonpath={}": "jsonpath={}",
		// Errors are kubectl's, without the name of the flag.
		"-oxml":         `unable to match a printer suitable for the output format "xml", allowed formats are: dot,jsonpath,jsonpath-as-json,table`,
		"-ojson":        `unable to match a printer suitable for the output format "json", allowed formats are: dot,jsonpath,jsonpath-as-json,table`,
		"-ojsonpath={.": "error parsing jsonpath {., unclosed action",
	} {
		text, f := formats()
		var args []string
		if given != "" {
			args = []string{given}
		}
		if err := Error(nil, f.Parse(args)); err != nil {
			*text = err.Error()
		}
		if *text != want {
			t.Errorf("%s: %s, want %s", given, *text, want)
		}
	}
	_, f := formats()
	const usage = `  -o, --output string   output format: table, dot (a graph), jsonpath=... or jsonpath-as-json=... (default "table")` + "\n"
	if diff := cmp.Diff(usage, f.FlagUsages()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestCompletesFormats(t *testing.T) {
	const ordered = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	_, f := formats()
	for typed, want := range map[string]struct {
		offers    []cobra.Completion
		directive cobra.ShellCompDirective
	}{
		"":  {[]cobra.Completion{"table", "dot\ta graph", "jsonpath=", "jsonpath-as-json="}, ordered},
		"d": {[]cobra.Completion{"dot\ta graph"}, ordered},
		"j": {[]cobra.Completion{"jsonpath=", "jsonpath-as-json="}, ordered | cobra.ShellCompDirectiveNoSpace},
	} {
		offers, directive := Complete(f.Lookup("output"))(&cobra.Command{}, nil, typed)
		if diff := cmp.Diff(want.offers, offers); diff != "" || directive != want.directive {
			t.Errorf("%q: %v (-want +got):\n%s", typed, directive, diff)
		}
	}
}
