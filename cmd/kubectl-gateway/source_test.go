package main

import (
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func TestParseLifetime(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "1d12h": 36 * time.Hour, "1.5h": 90 * time.Minute, "+3d": 3 * day, "90d": 90 * day, "8w": 56 * day, "10y": ca.DefaultTTL, "292y": 292 * 365 * day,
		"": 0, "0": 0, "0d": 0, "-1h": 0, "-1d": 0, "d": 0, "1.5d": 0, "10": 0, "293y": 0, "99999999999999999999d": 0, "ten years": 0,
	} {
		got, err := parseLifetime(text)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
		if err != nil && api.Hint(err) == "" {
			t.Errorf("%q: %v has no hint", text, err)
		}
	}
}
