//go:build linux

package handoff

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/metrics"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func status() *api.Status {
	return &api.Status{
		Version: "v1", State: api.Ready, StartedAt: time.Unix(1000, 0).UTC(), Mode: api.Strict, OnFailure: api.FailClosed,
		Identity: "spiffe://td/ns/a/sa/b", Pod: api.PodRef{Name: "not told"}, Missing: []string{"not told"},
		Traffic:  api.Traffic{Outbound: api.Direction{Encrypted: 7}},
		Existing: &api.ExistingConnections{Outbound: 3, Connections: []api.ExistingConnection{{Direction: "not told"}}},
	}
}

func TestAnswer(t *testing.T) {
	packet, err := encodeAnswer(status())
	if err != nil || strings.Contains(string(packet), "not told") {
		t.Fatalf("%v, %s", err, packet)
	}
	got := must.Get(parseAnswer(packet))(t)
	if diff := cmp.Diff(metrics.Reduce(status()).Traffic, got.Traffic); diff != "" || got.Identity != status().Identity {
		t.Errorf("%+v, %s", got, diff)
	}
	packet = must.Get(encodeAnswer(nil))(t)
	if _, err := parseAnswer(packet); !errors.Is(err, errNoStatus) {
		t.Error(err)
	}
}

// TestAnswerIsBounded: the longest identity that there can be fits, and nothing longer
// than the limit is written or read.
func TestAnswerIsBounded(t *testing.T) {
	s := status()
	s.Identity = strings.Repeat("\x01", 2048)
	packet := must.Get(encodeAnswer(s))(t)
	if got, err := parseAnswer(packet); err != nil || got.Identity != s.Identity {
		t.Error(err)
	}
	s.Identity = strings.Repeat("x", maxAnswer)
	if _, err := encodeAnswer(s); err == nil {
		t.Error("an answer is longer than the limit")
	}
	long := must.Get(json.Marshal(answer{Status: s}))(t)
	if _, err := parseAnswer(long); err == nil {
		t.Error("an answer was read that is longer than the limit")
	}
}

func FuzzParseAnswer(f *testing.F) {
	packet, err := encodeAnswer(status())
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{packet, []byte("{}"), []byte(`{"status":null}`), []byte(`{"status":{}} {}`), []byte(`{"x":1}`), nil} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		status, err := parseAnswer(packet)
		if (status == nil) != (err != nil) {
			t.Fatalf("%v, %v", status, err)
		}
		if err == nil {
			// Whatever it says can be served, or is refused without a panic.
			_ = metrics.Read(status)
		}
	})
}
