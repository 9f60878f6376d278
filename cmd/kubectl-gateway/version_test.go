package main

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestVersion(t *testing.T) {
	run := (&apiServer{}).start(t)
	code, stdout, stderr := run("version")
	for _, want := range []string{"Plugin version: " + version + "\n", "Go version: " + runtime.Version() + "\n", "Platform: " + runtime.GOOS + "/" + runtime.GOARCH + "\n",
		"Gateway image: ghcr.io/kubectl-gateway/kube-gateway:", `Server version: v1.37.2\x1b[2J` + "\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is not in %q", want, stdout)
		}
	}
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	for format, decode := range map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(text []byte, to any) error { return yaml.Unmarshal(text, to) },
	} {
		code, stdout, _ := run("version", "-o", format)
		var all versions
		if err := decode([]byte(stdout), &all); err != nil || code != 0 || all.Client.Version != version || all.Server.Minor != "37" {
			t.Errorf("%s: exit code %d, %v, stdout %q", format, code, err, stdout)
		}
	}
}

func TestVersionWithoutServer(t *testing.T) {
	run := (&apiServer{}).start(t)
	code, stdout, stderr := run("version", "--server=http://127.0.0.1:1")
	if code != 1 || !strings.Contains(stdout, "Plugin version: ") || !strings.Contains(stderr, "asking the server for its version") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	code, stdout, stderr = run("version", "--client", "--server=http://127.0.0.1:1")
	if code != 0 || strings.Contains(stdout, "Server") || stderr != "" {
		t.Errorf("--client: exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}
