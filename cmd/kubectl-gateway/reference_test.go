package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/manual"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

const (
	referenceFile = "../../docs/REFERENCE.md"
	manDir        = "../../docs/man"
)

const referenceIntroduction = `
Every command and every flag. The page is made from the commands by ` + "`make docs`" + `, and
` + "`kubectl gateway COMMAND --help`" + ` shows the same; so do the man pages in [man](man).
What things mean is in [ARCHITECTURE.md](ARCHITECTURE.md), what to do when in
[OPERATIONS.md](OPERATIONS.md).`

// TestReference compares the reference and the man pages with the commands. With
// -update it writes them ("make docs").
func TestReference(t *testing.T) {
	root := documented(t)
	want := map[string]string{referenceFile: manual.Markdown(root, referenceIntroduction)}
	for name, page := range manual.Man(root) {
		want[filepath.Join(manDir, name)] = page
	}
	old := must.Get(filepath.Glob(filepath.Join(manDir, "*")))(t)
	for _, file := range old {
		if _, ok := want[file]; ok {
			continue
		}
		if !golden.Updating() {
			t.Errorf("%s is of no command any more: run 'make docs'", file)
		} else if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range want {
		if golden.Updating() {
			must.Do(t, errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)))
			continue
		}
		got, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(got), text); diff != "" {
			t.Errorf("%s is not what the commands say: run 'make docs' (-file +commands):\n%s", file, diff)
		}
	}
}

// documented returns the commands as the documentation shows them: the same on
// every machine and for every version.
func documented(t *testing.T) *cobra.Command {
	t.Setenv("HOME", "$HOME")
	t.Setenv("USERPROFILE", "$HOME")
	t.Setenv("KUBECACHEDIR", "")
	root := newRootCommand(genericiooptions.NewTestIOStreamsDiscard())
	walk(root, func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			f.DefValue = strings.Replace(f.DefValue, installed.DefaultImage(version), imageOfVersion, 1)
		})
	})
	return root
}

// imageOfVersion is the default image as the documentation writes it.
var imageOfVersion = strings.TrimSuffix(installed.DefaultImage("v0.0.0"), "v0.0.0") + "VERSION"

func walk(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		walk(sub, do)
	}
}
