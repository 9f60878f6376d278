package remote

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func metricsClient(t *testing.T, stdout, stderr string, code int) *Conn {
	t.Helper()
	s := &server{run: says(code, stdout, stderr)}
	t.Cleanup(func() { expect.Equal(t, "commands", []string{GatewayProgram + " ctl metrics -o json"}, s.asked()) })
	return s.start(t)
}

func TestMetrics(t *testing.T) {
	c := metricsClient(t, `{"families":[{"name":"a_b","help":"h","type":"counter","samples":[{"labels":{"l":"v\u001b"},"value":2}]}]}`, "", 0)
	m, err := c.Metrics(t.Context())
	if err != nil || len(m.Families) != 1 || m.Families[0].Samples[0].Labels["l"] != "v\x1b" || m.Families[0].Samples[0].Value != 2 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestMetricsOfAnOldGateway(t *testing.T) {
	c := metricsClient(t, "", "error: unknown control command \"metrics\"\nhint: see\n", 1)
	_, err := c.Metrics(t.Context())
	expect.Refusal(t, "an old gateway", err, nil, "too old", "one release")
	c = metricsClient(t, "", "error: no socket\n", 1)
	if _, err := c.Metrics(t.Context()); err == nil || err.Error() != "no socket" {
		t.Errorf("%v", err)
	}
}

func TestParseMetricsRefuses(t *testing.T) {
	family := `{"name":%q,"type":%q,"samples":[{"labels":{%q:"x"},"value":1}]}`
	valid := fmt.Sprintf(family, "a", "gauge", "b")
	must.Get(parse([]byte(`{"families":[`+valid+`]}`), checkMetrics))(t)
	many := strings.TrimSuffix(strings.Repeat(valid+",", api.MaxMetricSamples+1), ",")
	for _, text := range []string{
		``, `[]`, `null`, `{"families":[]}`, `{"families":["\u001b[2J"]}`,
		`{"families":[` + fmt.Sprintf(family, "a\nb 1", "gauge", "b") + `]}`,
		`{"families":[` + fmt.Sprintf(family, "", "gauge", "b") + `]}`,
		`{"families":[` + fmt.Sprintf(family, "1a", "gauge", "b") + `]}`,
		`{"families":[` + fmt.Sprintf(family, "a", "gauge 1\nevil", "b") + `]}`,
		`{"families":[` + fmt.Sprintf(family, "a", "gauge", "b}") + `]}`,
		`{"families":[` + many + `]}`,
	} {
		_, err := parse([]byte(text), checkMetrics)
		if err == nil || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%.80q: %v", text, err)
		}
	}
}

// FuzzParseMetrics: what is taken has nothing in its names that could leave its place.
func FuzzParseMetrics(f *testing.F) {
	f.Add(`{"families":[{"name":"a","type":"gauge","samples":[{"labels":{"b":"c"},"value":1}]}]}`)
	f.Add(`{"families":[{"name":"a b","type":"gauge"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parse([]byte(text), checkMetrics)
		if (m == nil) == (err == nil) {
			t.Fatal(m, errors.Unwrap(err))
		}
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("%q", err.Error())
			}
			return
		}
		for _, family := range m.Families {
			if strings.ContainsAny(family.Name+family.Type, " \n\x1b{}\"") {
				t.Errorf("%q %q", family.Name, family.Type)
			}
		}
	})
}
