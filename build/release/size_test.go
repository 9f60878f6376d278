package main

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSize fails when a program has grown by more than features explain. The budgets
// are a tenth above what the programs had when they were last looked at; raise one
// together with the reason for it.
func TestSize(t *testing.T) {
	o := options{root: sourceTree(t), version: "v0.0.0-size"}
	on := platform{"linux", "amd64"}
	for program, budget := range map[string]int64{
		"./cmd/kubectl-gateway": 42_300_000,
		"./cmd/kube-gateway":    14_300_000,
	} {
		file := filepath.Join(t.TempDir(), "program")
		if _, err := o.link(t.Context(), program, file, on, ""); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s for %s: %d bytes of %d", program, on, info.Size(), budget)
		if info.Size() <= budget {
			continue
		}
		t.Errorf("%s for %s has %d bytes, more than its budget of %d: see 'go version -m' and 'go tool nm -size -sort size' of it for what is new", program, on, info.Size(), budget)
	}
}

// TestMethodsByName: calls of methods by names that nobody knows before are what makes
// programs grow by half at once (as an import of text/template does).
func TestMethodsByName(t *testing.T) {
	o := options{root: sourceTree(t), version: "v0.0.0-size"}
	for _, program := range []string{"./cmd/kubectl-gateway", "./cmd/kube-gateway"} {
		dump, err := o.link(t.Context(), program, filepath.Join(t.TempDir(), "program"), platform{"linux", "amd64"}, "-dumpdep")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(dump, []byte("main.main -> ")) {
			t.Fatalf("%s: the linker does not say what it keeps: %.200q", program, dump)
		}
		if path := methodsByName(dump); len(path) > 0 {
			t.Errorf("%s keeps all methods of all types: %s", program, strings.Join(path, ", used by "))
		}
	}
}

// methodsByName finds the function that makes the linker keep all methods in what its
// flag -dumpdep prints: lines "A -> B", in which such functions are marked. It returns
// the function and what leads to it, or nothing. There are more such lines once all
// methods are kept, so the first counts.
func methodsByName(dump []byte) (path []string) {
	const mark = "<ReflectMethod>"
	by := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(dump)); lines.Scan(); {
		from, to, ok := strings.Cut(lines.Text(), " -> ")
		if !ok {
			continue
		}
		marked := strings.HasSuffix(to, mark)
		from, to = symbol(from), symbol(to)
		if _, known := by[to]; !known {
			by[to] = from
		}
		if !marked {
			continue
		}
		for name := to; name != "" && len(path) < 8; name = by[name] {
			path = append(path, name)
		}
		return path
	}
	return nil
}

// symbol cuts the marks off a name.
func symbol(name string) string {
	name, _, _ = strings.Cut(name, " <")
	return name
}
