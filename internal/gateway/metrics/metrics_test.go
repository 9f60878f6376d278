package metrics

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// full is a status in which every number is another one.
func full() *api.Status {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 500_000_000) }
	return &api.Status{
		Version: "v1.2.3", FIPS140: "v1.0.0", State: api.Ready, StartedAt: at(1000), Time: at(5000),
		Mode: api.Strict, OnFailure: api.FailClosed, Wire: api.WireAuto,
		Missing: []string{"a", "b"}, Identity: `spiffe://td/ns/a/sa/"b"`,
		Cert:   api.Certificate{Serial: "1f", NotBefore: at(900), NotAfter: at(9000)},
		Worker: api.Worker{PID: 7, StartedAt: at(2000), Restarts: 3},
		Memory: &api.Memory{Used: 81, Limit: 82, Left: 83, Room: 84, Killed: 85},
		Capture: api.Capture{CaptureCounts: api.CaptureCounts{
			Captured: 11, ServicePassed: 12, ServiceRefused: 13, Uncapturable: 14, NoListener: 15,
			UDP: 16, UDPRefused: 17, UDPAnswers: 73, Steered: 18, PlaintextAllowed: 19, PlaintextRefused: 20,
			Excluded: 61, OutsideConnections: 125, OutsideRefused: 63, Nested: 71, Forwarded: 72,
		}},
		Traffic: api.Traffic{
			Outbound: api.Direction{Active: 21, Encrypted: 22, Plaintext: 23, Refused: 24, Inband: 25, Reused: 64, NotAllowed: 26, Reset: 63, OptionLost: 27, Sent: 28, Received: 29},
			Inbound:  api.Direction{Active: 31, Encrypted: 32, Plaintext: 33, Refused: 34, Inband: 35, Reused: 65, NotAllowed: 36, Audited: 61, Reset: 62, OptionLost: 37, Sent: 38, Received: 1 << 40},
		},
		Log:      api.LogStatus{Level: api.LogRefused, Limit: 81, Total: 82, Lines: 83, Bytes: 84, DroppedLines: 85, DroppedBytes: 86},
		Existing: &api.ExistingConnections{Outbound: 41, Inbound: 42, Reset: 43},
		Unencrypted: []api.Unencrypted{
			{Direction: api.Outbound, Reason: "peer_refused", Connections: 51}, {Direction: api.Inbound, Reason: "not_allowed", Connections: 52},
			{Direction: api.Inbound, Reason: "other", Connections: 53},
			// Nobody asked for these.
			{Direction: api.Inbound, Reason: "peer_refused", Connections: 54}, {Direction: api.Outbound, Reason: "x", Connections: 55},
		},
	}
}

// goldenFile, in testdata, is what Write makes of full. The dashboard's queries are held
// against it.
const goldenFile = "metrics.prom"

// names returns the names of all metrics, in order.
func names() []string {
	var all []string
	for _, f := range families() {
		all = append(all, f.name())
	}
	slices.Sort(all)
	return all
}

func write(t *testing.T, s *api.Status) string {
	t.Helper()
	var b bytes.Buffer
	must.Do(t, Write(&b, s))
	return b.String()
}

// samples returns the lines of an exposition that are no comments.
func samples(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func TestWrite(t *testing.T) {
	text := write(t, full())
	golden.Check(t, goldenFile, text)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", err, problems)
	}
}

// TestWriteOfStates: what is not known is left out, the rest is there from the start,
// so that a rate has something to begin with.
func TestWriteOfStates(t *testing.T) {
	all := strings.Count(samples(write(t, full())), "\n")
	for _, c := range []struct {
		name   string
		change func(*api.Status)
		// gone are the names that are not there, compared with full.
		gone []string
	}{
		{"nothing changed", func(*api.Status) {}, nil},
		{"a worker that was never started", func(s *api.Status) { s.Worker = api.Worker{} }, []string{"worker_start_time_seconds"}},
		{"without a certificate", func(s *api.Status) { s.State, s.Cert = api.Uncertified, api.Certificate{} },
			[]string{"certificate_not_after_timestamp_seconds", "certificate_not_before_timestamp_seconds"}},
		{"nobody looked for existing connections", func(s *api.Status) { s.Existing = nil },
			[]string{"existing_connections", "existing_connections_reset_total"}},
		{"the memory is unknown", func(s *api.Status) { s.Memory = nil },
			[]string{"memory_killed_total", "memory_left_bytes", "memory_limit_bytes", "memory_room_connections", "memory_used_bytes"}},
		{"the memory has no limit", func(s *api.Status) { s.Memory.Limit = 0 },
			[]string{"memory_left_bytes", "memory_limit_bytes", "memory_room_connections"}},
		{"no traffic", func(s *api.Status) { s.Traffic, s.Capture, s.Missing = api.Traffic{}, api.Capture{}, nil }, nil},
	} {
		s := full()
		c.change(s)
		var gone []string
		text := write(t, s)
		for _, name := range names() {
			if !strings.Contains(text, "# TYPE "+name+" ") {
				gone = append(gone, strings.TrimPrefix(name, namespace+"_"))
			}
		}
		if !slices.Equal(gone, c.gone) {
			t.Errorf("%s: %q are left out instead of %q", c.name, gone, c.gone)
		}
		if n := strings.Count(samples(text), "\n"); len(c.gone) == 0 && n != all {
			t.Errorf("%s: %d samples instead of %d", c.name, n, all)
		}
	}
}

// TestState: exactly one state is 1, for each that there is.
func TestState(t *testing.T) {
	for _, state := range []api.State{api.Starting, api.Ready, api.Degraded, api.Uncertified, api.Standby, api.Draining} {
		text := samples(write(t, &api.Status{State: state}))
		if n := strings.Count(text, "kube_gateway_state{"); n != 6 || strings.Count(text, "} 1\n") != 2 ||
			!strings.Contains(text, `kube_gateway_state{state="`+string(state)+`"} 1`+"\n") {
			t.Errorf("%s:\n%s", state, text)
		}
	}
}

// TestRead: both forms have the same samples.
func TestRead(t *testing.T) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed := must.Get(parser.TextToMetricFamilies(strings.NewReader(write(t, full()))))(t)
	all := Read(full())
	var got []string
	n := 0
	for _, f := range all.Families {
		got = append(got, f.Name)
		p := parsed[f.Name]
		if p == nil || p.GetHelp() != f.Help || !strings.EqualFold(p.GetType().String(), f.Type) || len(p.GetMetric()) != len(f.Samples) {
			t.Errorf("%+v instead of %v", f, p)
			continue
		}
		for i, m := range p.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if s := f.Samples[i]; s.Value != m.GetCounter().GetValue()+m.GetGauge().GetValue() || !maps.Equal(s.Labels, labels) {
				t.Errorf("%s: %+v instead of %v", f.Name, s, m)
			}
			n++
		}
	}
	if !slices.Equal(got, names()) || n != strings.Count(samples(write(t, full())), "\n") || n > api.MaxMetricSamples {
		t.Errorf("%d samples of %q", n, got)
	}
}

// TestReduce: what is left out is in no metric, and is left out.
func TestReduce(t *testing.T) {
	s := full()
	s.Pod, s.PodIPs = api.PodRef{Name: "left-out"}, []netip.Addr{netip.MustParseAddr("192.0.2.77")}
	s.Reason, s.Allow = "left-out", []string{"ns/left-out"}
	s.Cert.Serial, s.Cert.Authorities, s.MetricsAddr = "left-out", []string{"left-out"}, "left-out"
	s.Missing = []string{"left-out", "left-out"}
	s.Capture.Cgroup, s.Capture.Programs = "left-out", []string{"left-out"}
	for range 10_000 {
		s.Capture.Exclude = append(s.Capture.Exclude, netip.MustParsePrefix("192.0.2.0/24"))
	}
	s.Existing.Connections = []api.ExistingConnection{{Direction: "left-out"}}
	reduced := Reduce(s)
	if diff := cmp.Diff(write(t, s), write(t, reduced)); diff != "" {
		t.Error(diff)
	}
	text, err := json.Marshal(reduced)
	if err != nil || len(text) > 4096 || bytes.Contains(text, []byte("left-out")) || bytes.Contains(text, []byte("192.0.2.")) {
		t.Errorf("%v, %s", err, text)
	}
	if diff := cmp.Diff(write(t, &api.Status{}), write(t, Reduce(&api.Status{}))); diff != "" {
		t.Error(diff)
	}
}
