//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

func TestParseRuntimeArgs(t *testing.T) {
	for _, test := range []struct {
		args                []string
		command, bundle, id string
	}{
		{[]string{"--root", "/run/runc/k8s.io", "--log", "/l.json", "create", "--bundle", "/b", "--pid-file", "/p", "c1"}, "create", "/b", "c1"},
		{[]string{"create", "--bundle=/b", "c1"}, "create", "/b", "c1"},
		{[]string{"create", "-b", "/b", "c1"}, "create", "/b", "c1"},
		{[]string{"create", "c1"}, "create", ".", "c1"},
		{[]string{"--root=/r", "delete", "--force", "c1"}, "delete", ".", "c1"},
		{[]string{"--root", "/r", "start", "c1"}, "", ".", "c1"},
		{[]string{"features"}, "", ".", "features"},
		{nil, "", ".", ""},
	} {
		command, bundle, id := parseRuntimeArgs(test.args)
		if command != test.command || bundle != test.bundle || id != test.id {
			t.Errorf("%q: got %q, %q, %q", test.args, command, bundle, id)
		}
	}
}

func TestEditSpec(t *testing.T) {
	const before = `{
		"ociVersion": "1.2.0",
		"process": {"args": ["/app"], "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 18446744073709551615, "soft": 1}]},
		"linux": {
			"resources": {"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 2}, "memory": {"limit": 1}},
			"cgroupsPath": "/k8s.io/abc",
			"namespaces": [{"type": "pid"}]
		},
		"annotations": {"io.kubernetes.cri.sandbox-uid": "u-1"}
	}`
	const after = `{
		"ociVersion": "1.2.0",
		"process": {"args": ["/app"], "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 18446744073709551615, "soft": 1}]},
		"linux": {
			"resources": {"devices": [{"allow": false, "access": "rwm"}]},
			"cgroupsPath": "/kubepods/podu-1/abc",
			"namespaces": [{"type": "pid"}]
		},
		"annotations": {"io.kubernetes.cri.sandbox-uid": "u-1"}
	}`
	got, err := editSpec([]byte(before))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(decode(t, got), decode(t, []byte(after))) {
		t.Errorf("got %s", got)
	}
	for _, damaged := range []string{
		``, `null`, `{}`, `{"linux": {}}`, `{"linux": 1}`,
		`{"linux": {"cgroupsPath": "/k8s.io/abc"}}`, // no pod: it would land in somebody else's group
		`{"linux": {"cgroupsPath": 1}, "annotations": {"io.kubernetes.cri.sandbox-uid": "u-1"}}`,
	} {
		if got, err := editSpec([]byte(damaged)); err == nil {
			t.Errorf("editSpec(%s) = %s", damaged, got)
		}
	}
}

// decode keeps numbers as text: as float64, the limit above would lose digits.
func decode(t *testing.T, data []byte) any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}
