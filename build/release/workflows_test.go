package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// workflow is what the tests read of a workflow of GitHub Actions.
type workflow struct {
	Permissions map[string]string
	Jobs        map[string]struct {
		Permissions map[string]string
		Steps       []struct {
			Uses, Run string
			With      map[string]any
		}
	}
}

// pinned is an action by its commit, with the version that this is.
var pinned = regexp.MustCompile(`^\s*(- )?uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)

// problems returns what is wrong with the text of a workflow.
func problems(text string) (found []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.Contains(line, "uses:") && !pinned.MatchString(line) {
			found = append(found, "not pinned by a commit with its version behind it: "+line)
		}
	}
	var w workflow
	if err := yaml.Unmarshal([]byte(text), &w); err != nil {
		return append(found, err.Error())
	}
	if w.Permissions == nil || len(w.Permissions) > 0 {
		found = append(found, "the workflow does not begin with 'permissions: {}'")
	}
	for name, job := range w.Jobs {
		if len(job.Permissions) == 0 {
			found = append(found, "job "+name+" does not say which permissions it needs")
		}
		for _, step := range job.Steps {
			if strings.Contains(step.Run, "${{") {
				found = append(found, "an expression in a command: "+step.Run)
			}
			if strings.HasPrefix(step.Uses, "actions/checkout@") && step.With["persist-credentials"] != false {
				found = append(found, "job "+name+" leaves its token to all that it runs")
			}
		}
	}
	return found
}

// TestWorkflows: actions are what they were when somebody looked at them, and jobs may do what they need.
func TestWorkflows(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(sourceTree(t), ".github", "workflows", "*.yml"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%q: %v", files, err)
	}
	other, err := os.ReadDir(filepath.Join(sourceTree(t), ".github", "workflows"))
	if err != nil || len(other) != len(files) {
		t.Errorf("%v: not all of %v are *.yml", err, other)
	}
	for _, file := range files {
		for _, problem := range problems(read(t, file)) {
			t.Errorf("%s: %s", filepath.Base(file), problem)
		}
	}
}

// TestBadWorkflows breaks a good workflow in every way that problems knows.
func TestBadWorkflows(t *testing.T) {
	const good = `permissions: {}
jobs:
  x:
    permissions:
      contents: read
    steps:
    - uses: actions/checkout@0123456789012345678901234567890123456789 # v1.2.3
      with:
        persist-credentials: false
    - run: make "$X"
`
	if found := problems(good); len(found) > 0 {
		t.Errorf("a good one: %q", found)
	}
	for from, to := range map[string]string{
		"@0123456789012345678901234567890123456789 # v1.2.3": "@v1",
		"0123456789 # v1.2.3":                                "0123456789",
		"01234567890123456789 # v":                           " # v",
		"permissions: {}\n":                                  "",
		"permissions: {}":                                    "permissions: {contents: write}",
		"    permissions:\n      contents: read\n":           "",
		"persist-credentials: false":                         "fetch-depth: 0",
		`"$X"`:                                               "${{ github.ref }}",
	} {
		if bad := strings.Replace(good, from, to, 1); bad == good || len(problems(bad)) != 1 {
			t.Errorf("%q for %q: %q", to, from, problems(bad))
		}
	}
}
