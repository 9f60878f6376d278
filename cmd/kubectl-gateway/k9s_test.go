package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

const k9sFile = "../../examples/k9s-plugins.yaml"

// k9sPlugin is a plugin as the schema of k9s has it (internal/config/json/schemas/plugins.json).
type k9sPlugin struct {
	ShortCut    string   `json:"shortCut"`
	Description string   `json:"description"`
	Confirm     bool     `json:"confirm"`
	Dangerous   bool     `json:"dangerous"`
	Scopes      []string `json:"scopes"`
	Command     string   `json:"command"`
	Args        []string `json:"args"`
}

// line returns what the plugin runs as a line of shell.
func (p *k9sPlugin) line(t *testing.T) string {
	t.Helper()
	switch {
	case p.Command == "kubectl":
		return "kubectl " + strings.Join(p.Args, " ")
	case p.Command == "sh" && len(p.Args) == 2 && p.Args[0] == "-c":
		// The words of examples have no descriptors.
		return strings.ReplaceAll(p.Args[1], " 2>&1", "")
	}
	t.Errorf("it runs %s %q", p.Command, p.Args)
	return ""
}

// TestK9sPlugins has the commands take the flags and arguments of each command line in the file, and
// compares the file with what k9s takes.
func TestK9sPlugins(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	var file struct {
		Plugins map[string]k9sPlugin `json:"plugins"`
	}
	must.Do(t, yaml.UnmarshalStrict(must.Get(os.ReadFile(k9sFile))(t), &file))
	if len(file.Plugins) == 0 {
		t.Fatal("no plugins")
	}
	shortCut := regexp.MustCompile(`^(Shift|Ctrl)-[A-Z]$`)
	variable := regexp.MustCompile(`\$[A-Z_]+`)
	taken := map[string]string{}
	for name, p := range file.Plugins {
		t.Run(name, func(t *testing.T) {
			if !shortCut.MatchString(p.ShortCut) || p.Description == "" || len(p.Scopes) == 0 {
				t.Errorf("%+v", p)
			}
			for _, scope := range p.Scopes {
				key := scope + " " + p.ShortCut
				if other := taken[key]; other != "" {
					t.Errorf("%s is that of %s as well", p.ShortCut, other)
				}
				taken[key] = name
			}
			line := p.line(t)
			for _, v := range variable.FindAllString(line, -1) {
				if !slices.Contains([]string{"$NAME", "$NAMESPACE", "$CONTEXT"}, v) {
					t.Errorf("k9s does not set %s", v)
				}
			}
			if !strings.Contains(line, "$CONTEXT") {
				t.Error("it is for the kubeconfig's context, not for that of k9s")
			}
			commands := commandLines(t, line)
			if len(commands) != 1 {
				t.Fatalf("%q has %d commands of the plugin", line, len(commands))
			}
			root := newRootCommand(genericiooptions.NewTestIOStreamsDiscard())
			found, _, err := root.Find(commands[0])
			must.Do(t, err)
			checkExample(t, found, line, commands[0])
			changes := map[string]bool{"enable": true, "disable": true}
			if needs := changes[found.Name()]; p.Confirm != needs || p.Dangerous != needs {
				t.Errorf("%s: confirm %t, dangerous %t", found.Name(), p.Confirm, p.Dangerous)
			}
			if !slices.Contains(commands[0], "pod/$NAME") && !slices.Contains(commands[0], "$NAME") {
				t.Errorf("it is not for what is selected: %q", line)
			}
		})
	}
}
