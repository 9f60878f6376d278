package main

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
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
		"./cmd/kube-gateway":    13_200_000,
	} {
		file, dump := dumped(t, program, on)
		checkSize(t, program, file, budget)
		if path := methodsByName(dump); len(path) > 0 {
			t.Errorf("%s keeps all methods of all types: %s", program, strings.Join(path, ", used by "))
		}
	}
}

func checkSize(t *testing.T, program, file string, budget int64) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d bytes of %d", program, info.Size(), budget)
	if info.Size() > budget {
		t.Errorf("%s has %d bytes, more than its budget of %d: see 'go version -m' and 'go tool nm -size -sort size' of it for what is new", program, info.Size(), budget)
	}
}

// TestFIPS builds the gateway as "make image FIPS=1" does. It is in FIPS 140-3 mode without being asked, and has
// a budget of its own.
func TestFIPS(t *testing.T) {
	module := regexp.MustCompile(`(?m)^FIPS_MODULE := (\S+)$`).FindStringSubmatch(read(t, filepath.Join(sourceTree(t), "Makefile")))
	if module == nil {
		t.Fatal("the Makefile does not say which FIPS 140-3 module it takes")
	}
	t.Setenv("GOFIPS140", module[1])
	file := filepath.Join(t.TempDir(), "kube-gateway")
	o := options{root: sourceTree(t), version: "v0.0.0-size"}
	if _, err := o.link(t.Context(), "./cmd/kube-gateway", file, platform{"linux", runtime.GOARCH}, ""); err != nil {
		t.Fatal(err)
	}
	checkSize(t, "./cmd/kube-gateway in FIPS 140-3 mode", file, 13_200_000)
	want := "kube-gateway v0.0.0-size\nFIPS 140-3 module " + module[1] + "\n"
	if got := run(t, file, "version"); got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
}

// dumped links a program and returns its file, and what the linker's -dumpdep prints.
func dumped(t *testing.T, program string, on platform) (file string, dump []byte) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "program")
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
	return file, dump
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
