package metrics

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// full is a status in which every number is another one.
func full() *api.Status {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 500_000_000) }
	return &api.Status{
		Version: "v1.2.3", State: api.Ready, StartedAt: at(1000), Time: at(5000),
		Mode: api.Strict, OnFailure: api.FailClosed, Wire: api.WireAuto,
		Missing: []string{"a", "b"}, Identity: `spiffe://td/ns/a/sa/"b"`,
		Cert:   api.Certificate{Serial: "1f", NotBefore: at(900), NotAfter: at(9000)},
		Worker: api.Worker{PID: 7, StartedAt: at(2000), Restarts: 3},
		Capture: api.Capture{
			Captured: 11, ServicePassed: 12, ServiceRefused: 13, Uncapturable: 14, NoListener: 15,
			UDP: 16, UDPRefused: 17, Steered: 18, PlaintextAllowed: 19, PlaintextRefused: 20,
		},
		Traffic: api.Traffic{
			Outbound: api.Direction{Active: 21, Encrypted: 22, Plaintext: 23, Refused: 24, Inband: 25, NotAllowed: 26, OptionLost: 27, Sent: 28, Received: 29},
			Inbound:  api.Direction{Active: 31, Encrypted: 32, Plaintext: 33, Refused: 34, Inband: 35, NotAllowed: 36, OptionLost: 37, Sent: 38, Received: 1 << 40},
		},
		Existing: &api.ExistingConnections{Outbound: 41, Inbound: 42, Reset: 43},
	}
}

// everything is what Write makes of full, without the comments.
const everything = `kube_gateway_active_connections{direction="inbound"} 31
kube_gateway_active_connections{direction="outbound"} 21
kube_gateway_captured_connections_total 11
kube_gateway_certificate_not_after_timestamp_seconds 9000.5
kube_gateway_certificate_not_before_timestamp_seconds 900.5
kube_gateway_connections_total{direction="inbound",result="encrypted"} 32
kube_gateway_connections_total{direction="inbound",result="plaintext"} 33
kube_gateway_connections_total{direction="inbound",result="refused"} 34
kube_gateway_connections_total{direction="outbound",result="encrypted"} 22
kube_gateway_connections_total{direction="outbound",result="plaintext"} 23
kube_gateway_connections_total{direction="outbound",result="refused"} 24
kube_gateway_existing_connections{direction="inbound"} 42
kube_gateway_existing_connections{direction="outbound"} 41
kube_gateway_existing_connections_reset_total 43
kube_gateway_guarded_connections_total{result="passed"} 19
kube_gateway_guarded_connections_total{result="refused"} 20
kube_gateway_inband_connections_total{direction="inbound"} 35
kube_gateway_inband_connections_total{direction="outbound"} 25
kube_gateway_info{identity="spiffe://td/ns/a/sa/\"b\"",mode="strict",on_failure="closed",version="v1.2.3",wire="auto"} 1
kube_gateway_missing_features 2
kube_gateway_no_listener_connections_total 15
kube_gateway_received_bytes_total{direction="inbound"} 1.099511627776e+12
kube_gateway_received_bytes_total{direction="outbound"} 29
kube_gateway_sent_bytes_total{direction="inbound"} 38
kube_gateway_sent_bytes_total{direction="outbound"} 28
kube_gateway_service_connections_total{result="passed"} 12
kube_gateway_service_connections_total{result="refused"} 13
kube_gateway_start_time_seconds 1000.5
kube_gateway_state{state="degraded"} 0
kube_gateway_state{state="draining"} 0
kube_gateway_state{state="ready"} 1
kube_gateway_state{state="starting"} 0
kube_gateway_state{state="uncertified"} 0
kube_gateway_steered_connections_total 18
kube_gateway_udp_refused_total 17
kube_gateway_udp_total 16
kube_gateway_uncapturable_connections_total 14
kube_gateway_unencrypted_connections_total{direction="inbound",reason="not_allowed"} 36
kube_gateway_unencrypted_connections_total{direction="inbound",reason="option_lost"} 37
kube_gateway_unencrypted_connections_total{direction="outbound",reason="not_allowed"} 26
kube_gateway_unencrypted_connections_total{direction="outbound",reason="option_lost"} 27
kube_gateway_worker_restarts_total 3
kube_gateway_worker_start_time_seconds 2000.5
`

func write(t *testing.T, s *api.Status) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, s); err != nil {
		t.Fatal(err)
	}
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
	if diff := cmp.Diff(everything, samples(text)); diff != "" {
		t.Error(diff)
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", err, problems)
	}
}

// TestWriteOfStates: what is not known is left out, the rest is there from the start,
// so that a rate has something to begin with.
func TestWriteOfStates(t *testing.T) {
	only := func(what string) []string {
		return slices.DeleteFunc(strings.Split(what, "\n"), func(line string) bool { return !strings.HasPrefix(line, namespace) })
	}
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
		{"no traffic", func(s *api.Status) { s.Traffic, s.Capture, s.Missing = api.Traffic{}, api.Capture{}, nil }, nil},
	} {
		s := full()
		c.change(s)
		var gone []string
		text := write(t, s)
		for _, name := range Names() {
			if !strings.Contains(text, "# TYPE "+name+" ") {
				gone = append(gone, strings.TrimPrefix(name, namespace+"_"))
			}
		}
		if !slices.Equal(gone, c.gone) {
			t.Errorf("%s: %q are left out instead of %q", c.name, gone, c.gone)
		}
		if len(c.gone) == 0 && len(only(text)) != len(only(everything)) {
			t.Errorf("%s: %d samples instead of %d", c.name, len(only(text)), len(only(everything)))
		}
	}
}

// TestState: exactly one state is 1, for each that there is.
func TestState(t *testing.T) {
	for _, state := range []api.State{api.Starting, api.Ready, api.Degraded, api.Uncertified, api.Draining} {
		text := samples(write(t, &api.Status{State: state}))
		if n := strings.Count(text, "kube_gateway_state{"); n != 5 || strings.Count(text, "} 1\n") != 2 ||
			!strings.Contains(text, `kube_gateway_state{state="`+string(state)+`"} 1`+"\n") {
			t.Errorf("%s:\n%s", state, text)
		}
	}
}

// TestRead: both forms have the same samples.
func TestRead(t *testing.T) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(strings.NewReader(write(t, full())))
	if err != nil {
		t.Fatal(err)
	}
	all, err := Read(full())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	n := 0
	for _, f := range all.Families {
		names = append(names, f.Name)
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
	if !slices.Equal(names, Names()) || n != strings.Count(everything, "\n") || n > api.MaxMetricSamples {
		t.Errorf("%d samples of %q", n, names)
	}
}
