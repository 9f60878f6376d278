package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// TestExamples reads every example of every help text as a shell would and has the
// command that it names take its flags and arguments, without running it.
func TestExamples(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	root := newRootCommand(genericiooptions.NewTestIOStreamsDiscard())
	walk(root, func(c *cobra.Command) {
		// A command that does something has an example. Version needs none.
		if c.Runnable() && c.Name() != "version" && !c.Hidden && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		own := false
		for _, line := range strings.Split(c.Example, "\n") {
			for _, words := range commandLines(t, line) {
				own = checkExample(t, c, line, words) || own
			}
		}
		if c.Example != "" && !own {
			t.Errorf("the examples of %s are of other commands", c.CommandPath())
		}
	})
}

// checkExample reports whether words, of an example of c, run c itself.
func checkExample(t *testing.T, c *cobra.Command, line string, words []string) bool {
	t.Helper()
	// Flags keep what was set before, so each example has commands of its own.
	root := newRootCommand(genericiooptions.NewTestIOStreamsDiscard())
	found, rest, err := root.Find(words)
	if err != nil {
		t.Errorf("%s: %q: %v", c.CommandPath(), line, err)
		return false
	}
	if found == root {
		t.Errorf("%s: %q names no command", c.CommandPath(), line)
		return false
	}
	if err := found.ParseFlags(rest); err != nil {
		t.Errorf("%s: %q: %v", c.CommandPath(), line, err)
		return false
	}
	for _, check := range []func() error{
		func() error { return found.ValidateArgs(found.Flags().Args()) },
		found.ValidateRequiredFlags,
		found.ValidateFlagGroups,
	} {
		if err := check(); err != nil {
			t.Errorf("%s: %q: %v", c.CommandPath(), line, err)
		}
	}
	return found.CommandPath() == c.CommandPath()
}

// commandLines returns the arguments of each "kubectl gateway" in a line of shell.
// Comments and other commands have none.
func commandLines(t *testing.T, line string) [][]string {
	t.Helper()
	var found [][]string
	for _, words := range splitShell(t, line) {
		// Settings for one command, as in "KUBECONFIG=file kubectl gateway status".
		for len(words) > 0 && !strings.HasPrefix(words[0], "-") && strings.Contains(words[0], "=") {
			words = words[1:]
		}
		if len(words) > 1 && words[0] == "kubectl" && words[1] == "gateway" {
			found = append(found, words[2:])
		}
	}
	return found
}

// splitShell divides a line into commands and their words: quotes, comments, pipes,
// lists and redirections, which is as much shell as examples should have.
func splitShell(t *testing.T, line string) [][]string {
	t.Helper()
	var (
		commands [][]string
		words    []string
		word     strings.Builder
		inWord   bool
		redirect bool
		quote    rune
	)
	endWord := func() {
		if inWord && !redirect {
			words = append(words, word.String())
		}
		redirect = redirect && !inWord
		word.Reset()
		inWord = false
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	for _, r := range line {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
				continue
			}
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == '#' && !inWord:
			endCommand()
			return commands
		case r == ' ' || r == '\t':
			endWord()
		case r == '|' || r == ';' || r == '&':
			endCommand()
		case r == '(' || r == ')':
			redirect = false
			endCommand()
		case r == '>' || r == '<':
			endWord()
			redirect = true
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	if quote != 0 {
		t.Errorf("%q has a quote that does not end", line)
	}
	endCommand()
	return commands
}

func TestSplitShell(t *testing.T) {
	for line, want := range map[string]string{
		`kubectl gateway status`:                               `kubectl gateway status`,
		`  # a comment`:                                        ``,
		`kubectl gateway allow 'ns/prod/sa/*' # all`:           `kubectl gateway allow ns/prod/sa/*`,
		`kubectl gateway status -o json | jq '.a | .b' >x.txt`: `kubectl gateway status -o json;jq .a | .b`,
		`a >/dev/null b; c && d`:                               `a b;c;d`,
		`source <(kubectl gateway completion bash)`:            `source;kubectl gateway completion bash`,
	} {
		var got []string
		for _, words := range splitShell(t, line) {
			got = append(got, strings.Join(words, " "))
		}
		if joined := strings.Join(got, ";"); joined != want {
			t.Errorf("%q: got %q, want %q", line, joined, want)
		}
	}
}
