package main

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSize fails when a program has grown by more than features explain, and tells what makes
// programs grow by half at once: calls of methods by names that nobody knows before, as an
// import of text/template brings them. The budgets are a tenth above what the programs had when
// they were last looked at; raise one together with the reason for it.
func TestSize(t *testing.T) {
	on := platform{"linux", "amd64"}
	for program, budget := range map[string]int64{
		"./cmd/kubectl-gateway": 42_300_000,
		"./cmd/kube-gateway":    14_300_000,
	} {
		size, dump := dumped(t, program, on)
		t.Logf("%s for %s: %d bytes of %d", program, on, size, budget)
		if size > budget {
			t.Errorf("%s for %s has %d bytes, more than its budget of %d: see 'go version -m' and 'go tool nm -size -sort size' of it for what is new", program, on, size, budget)
		}
		if path := methodsByName(dump); len(path) > 0 {
			t.Errorf("%s keeps all methods of all types: %s", program, strings.Join(path, ", used by "))
		}
	}
}

// dumped links a program and returns its size, and what the linker's -dumpdep prints.
func dumped(t *testing.T, program string, on platform) (size int64, dump []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	o := options{root: sourceTree(t), version: "v0.0.0-size"}
	// The go command keeps what the linker prints beside the compiled main package, whatever the
	// linker's flags, and prints it again when somebody builds a program that is there already.
	// The compiler's flag -e, which matters to errors alone, makes it another main package.
	dump, err := o.link(t.Context(), program, file, on, "-dumpdep", "-gcflags=-e")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(dump, []byte("main.main -> ")) {
		t.Fatalf("%s: the linker does not say what it keeps: %.200q", program, dump)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size(), dump
}

// TestGatewayArchitectures builds the gateway for the architecture that no other test has.
func TestGatewayArchitectures(t *testing.T) {
	o := options{root: sourceTree(t), version: "v0.0.0-size"}
	if _, err := o.link(t.Context(), "./cmd/kube-gateway", os.DevNull, platform{"linux", "arm64"}, ""); err != nil {
		t.Fatal(err)
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
