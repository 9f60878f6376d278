//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
)

func TestMain(m *testing.M) {
	helpers().Run()
	os.Exit(m.Run())
}

// requireRoot skips a test that makes network namespaces where that cannot be,
// and fails it where it must.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("root is needed for network namespaces and cgroups")
	}
	t.Skip("root is needed for network namespaces and cgroups")
}

func buildGateway(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kube-gateway")
	build := exec.Command("go", "build", "-o", path, "../cmd/kube-gateway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the gateway: %v\n%s", err, out)
	}
	return path
}

// nothingIsLeft looks for cgroups of this process, which netlab would remove
// together with the processes in them.
func nothingIsLeft(t *testing.T) {
	t.Helper()
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		left, err := filepath.Glob(filepath.Join(mount, fmt.Sprintf("kubectl-gateway-test-%d-*", os.Getpid())))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	}
}

// TestEveryMeasure runs the whole benchmark, too briefly to mean anything.
func TestEveryMeasure(t *testing.T) {
	requireRoot(t)
	program := buildGateway(t)
	p := plan{
		Program: program, Base: program, Rounds: 2, Duration: 50 * time.Millisecond,
		Groups: allGroups(), Sides: append(allSides(), base), Held: 50, Settle: 10 * time.Millisecond, Progress: &bytes.Buffer{},
	}
	var out bytes.Buffer
	if err := p.printed(t.Context(), "json", &out); err != nil {
		t.Fatal(err)
	}
	nothingIsLeft(t)
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v in %s", err, out.Bytes())
	}
	if cc := r.Machine.CongestionControl; cc != "cubic" && cc != "reno" {
		t.Errorf("congestion control is %q", cc)
	}
	seen := map[string]bool{}
	for _, l := range r.Lines {
		seen[l.Table] = true
		sides := []string{splice, gateways, inband, service, base}
		switch l.Table {
		case tableThroughput, tableCPUAll, tableConnections, tableFirstByte:
			sides = p.Sides
		case tableStart:
			sides = []string{gateways, inband, service, base}
		}
		for _, side := range sides {
			if n := len(l.Samples[side]); n != p.Rounds {
				t.Errorf("%s, %s: %d samples of %s", l.Table, l.Name, n, side)
			}
			// A connection of this few may take no further page.
			if l.Median[side] <= 0 && l.Table != tableMemory {
				t.Errorf("%s, %s: %s is %v", l.Table, l.Name, side, l.Median[side])
			}
		}
		if _, ok := l.Ratio[base]; !ok && l.Table != tableMemory {
			t.Errorf("%s, %s: no ratio", l.Table, l.Name)
		}
	}
	for _, table := range allTables() {
		if !seen[table] {
			t.Errorf("no line of %q", table)
		}
	}

	out.Reset()
	r.sides = allSides()
	if err := r.printText(&out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "GATEWAYS/DIRECT") || !strings.Contains(text, "upload, 8 streams") {
		t.Errorf("as text:\n%s", text)
	}
}

// TestUncapturedIsVoid has the client run where nothing is captured: it works,
// and must not count.
func TestUncapturedIsVoid(t *testing.T) {
	requireRoot(t)
	s, err := plan{Program: buildGateway(t)}.newSide(t.Context(), gateways)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	s.client.close()
	pod := s.between.(*namespaces).a
	if s.client, err = startAgent(pod, pod.OtherCgroup, "client"); err != nil {
		t.Fatal(err)
	}
	for _, m := range allMeasures() {
		_, err := m.run(t.Context(), s, 10*time.Millisecond)
		if err == nil || !strings.Contains(err.Error(), "void") || !strings.Contains(err.Error(), "0 encrypted") {
			t.Errorf("%s without encryption: %v", m.name, err)
		}
	}
}

// TestInterrupt ends a run that would take hours, wherever it is by then.
func TestInterrupt(t *testing.T) {
	requireRoot(t)
	p := plan{
		Rounds: 1, Duration: time.Hour, Groups: []string{groupLatency}, Sides: []string{direct, splice},
		Progress: &bytes.Buffer{},
	}
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 2 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := p.run(ctx)
		cancel()
		if err == nil {
			t.Errorf("interrupted after %v: no error", after)
		}
		nothingIsLeft(t)
	}
}

func TestCheck(t *testing.T) {
	good := func() (tally, outcome) {
		var after tally
		after.server = outcome{Connections: 3, Sent: 20, Received: 10}
		after.outbound.Encrypted, after.outbound.Sent, after.outbound.Received = 3, 10, 20
		after.inbound.Encrypted, after.inbound.Sent, after.inbound.Received = 3, 20, 10
		return after, outcome{Connections: 3, Sent: 10, Received: 20}
	}
	s := &side{between: &namespaces{gateways: make([]*gatewaylab.Gateway, 2)}}
	after, client := good()
	if err := s.check(tally{}, after, client); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*tally, *outcome){
		"a connection that did not arrive":   func(after *tally, _ *outcome) { after.server.Connections-- },
		"a byte that did not arrive":         func(after *tally, _ *outcome) { after.server.Received-- },
		"a byte that did not come back":      func(_ *tally, c *outcome) { c.Received-- },
		"a plaintext connection":             func(after *tally, _ *outcome) { after.outbound.Encrypted--; after.outbound.Plaintext++ },
		"a plaintext connection more":        func(after *tally, _ *outcome) { after.outbound.Plaintext++ },
		"a refused connection":               func(after *tally, _ *outcome) { after.inbound.Refused++ },
		"a connection past a gateway":        func(after *tally, _ *outcome) { after.inbound.Encrypted-- },
		"bytes that a gateway knows nothing": func(after *tally, _ *outcome) { after.inbound.Sent-- },
	} {
		after, client := good()
		spoil(&after, &client)
		if err := s.check(tally{}, after, client); err == nil {
			t.Errorf("%s is not noticed", name)
		}
	}
}

func TestMedianAndRatios(t *testing.T) {
	for want, values := range map[float64][]float64{2: {3, 1, 2}, 2.5: {4, 1, 2, 3}, 7: {7}, 0: nil} {
		before := slices.Clone(values)
		if got := median(values); got != want || !slices.Equal(before, values) {
			t.Errorf("median(%v) is %v", before, got)
		}
	}
	r := newReport(plan{})
	for round, ours := range []float64{10, 40, 90} {
		r.add(direct, []value{{tableThroughput, "x", "Gb/s", 100 * float64(round+1)}})
		r.add(gateways, []value{{tableThroughput, "x", "Gb/s", ours}})
	}
	// The rounds' ratios are 0.1, 0.2 and 0.3.
	if got := r.Lines[0].Ratio[direct]; got != 0.2 {
		t.Errorf("the ratio is %v", got)
	}
	if _, ok := r.Lines[0].Ratio[splice]; ok {
		t.Error("a ratio to what was not measured")
	}

	// Rounds in which the other side took nothing have no ratio.
	for round, theirs := range []float64{0, 5, 0} {
		r.add(splice, []value{{tableMemory, "y", "KiB", theirs}})
		r.add(inband, []value{{tableMemory, "y", "KiB", 0}})
		r.add(gateways, []value{{tableMemory, "y", "KiB", float64(10 * round)}})
	}
	ratios := r.Lines[slices.IndexFunc(r.Lines, func(l *line) bool { return l.Name == "y" })].Ratio
	if diff := cmp.Diff(map[string]float64{splice: 2}, ratios); diff != "" {
		t.Errorf("ratios (-want +got):\n%s", diff)
	}
	if err := r.printJSON(io.Discard); err != nil {
		t.Error(err)
	}
}

func TestFormat(t *testing.T) {
	for want, v := range map[string]float64{"0.12": 0.123, "1.50": 1.5, "12.3": 12.34, "123": 123.4, "12345": 12345} {
		if got := format(v); got != want {
			t.Errorf("format(%v) is %s, want %s", v, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	var stderr bytes.Buffer
	p, format, err := parse([]string{"--only", "memory,latency", "--sides", "gateways", "-o", "json", "--rounds=2", "--duration=2s"}, &stderr)
	if err != nil || format != "json" || p.Rounds != 2 || p.Duration != 2*time.Second || !filepath.IsAbs(p.Program) ||
		!slices.Equal(p.Groups, []string{groupLatency, groupMemory}) || !slices.Equal(p.Sides, []string{gateways}) {
		t.Errorf("%+v, %s, %v", p, format, err)
	}
	for _, args := range [][]string{
		{"--with", "other"}, {"--only", "speed"}, {"--sides", ","}, {"-o", "xml"}, {"--rounds", "0"}, {"--duration", "1ms"}, {"more"}, {"--what"},
		{"--cluster", "--base", "x"}, {"--cluster", "--sides", "splice"}, {"--cluster", "--only", "start"},
	} {
		if _, _, err := parse(args, &stderr); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}

func TestOtherProxiesAreOptional(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var stderr bytes.Buffer
	for _, o := range otherProxies() {
		if _, _, err := parse([]string{"--with", o.name}, &stderr); api.Hint(err) != "apt-get install "+o.packages {
			t.Errorf("without %s: %v", o.name, err)
		}
		if err := os.WriteFile(filepath.Join(os.Getenv("PATH"), o.program), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p, _, err := parse([]string{"--with", strings.Join(otherProxyNames(), ",")}, &stderr)
	if err != nil || !slices.Equal(p.Sides, append(allSides(), otherProxyNames()...)) {
		t.Errorf("with all: %v, %v", p.Sides, err)
	}
}
