//go:build linux

package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestTerminationMessage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "termination-log")
	err := api.WithHint(errors.New("it broke"), "mend it")
	WriteTerminationMessage(path, err)
	if _, statErr := os.Stat(path); statErr == nil {
		t.Error("a file was created that the kubelet did not provide")
	}
	if writeErr := os.WriteFile(path, []byte("the words of an earlier start, which were longer"), 0o644); writeErr != nil {
		t.Fatal(writeErr)
	}
	WriteTerminationMessage(path, err)
	if text, _ := os.ReadFile(path); string(text) != "it broke\nhint: mend it" {
		t.Errorf("the last words are %q", text)
	}
	WriteTerminationMessage(path, errors.New(strings.Repeat("x", 2*maxTerminationMessage)))
	if text, _ := os.ReadFile(path); len(text) != maxTerminationMessage {
		t.Errorf("%d bytes were left, the kubelet keeps %d", len(text), maxTerminationMessage)
	}
}

func TestGatewayListens(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
	table := func(rows string) string {
		path := filepath.Join(t.TempDir(), "tcp")
		must.Do(t, os.WriteFile(path, []byte(head+rows), 0o600))
		return path
	}
	quiet := table("   0: 00000000:2328 00000000:0000 0A 0:0\n   1: 0200090A:480B 0300090A:C350 01 0:0\n")
	for name, c := range map[string]struct {
		tables []string
		want   bool
	}{
		"an application, and a connection to the peer port": {[]string{quiet, "/nonexistent"}, false},
		"capture and in band":                               {[]string{quiet, table("   0: 0100007F:4651 00000000:0000 0A 0:0\n   0: 0100007F:480E 00000000:0000 0A 0:0\n")}, true},
		"an application on a port that gateways try":        {[]string{quiet, table("   0: 0100007F:4650 00000000:0000 0A 0:0\n   0: 0100007F:480E 00000000:0000 0A 0:0\n")}, false},
		"peer": {[]string{table("   0: 00000000000000000000000000000000:480B 0:0 0A 0:0\n")}, true},
	} {
		if got, err := gatewayListens(c.tables...); err != nil || got != c.want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
}
