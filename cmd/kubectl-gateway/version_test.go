package main

import (
	"encoding/json"
	"runtime"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestVersion(t *testing.T) {
	run := (&apiServer{}).start(t)
	prints(t, run, printed{"version", 0, "Plugin version: " + version + "\n|Go version: " + runtime.Version() + "\n|Platform: " + runtime.GOOS + "/" + runtime.GOARCH + "\n|" +
		"Gateway image: ghcr.io/kubectl-gateway/kube-gateway:|Server version: v1.37.2\\x1b[2J\n", nothing})
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
	prints(t, (&apiServer{}).start(t),
		printed{"version --server=http://127.0.0.1:1", 1, "Plugin version: ", "asking the server for its version"},
		printed{"version --client --server=http://127.0.0.1:1", 0, "!Server", nothing},
	)
}
