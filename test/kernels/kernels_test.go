//go:build linux

package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// said is what a guest says: a test that passes with another one's words in front of
// the line, one that fails, one that is skipped, and one that the guest dies in.
const said = "== kernel 5.10.0-32-cloud-amd64, up 6.78 s\r\n" +
	"== begin bpf 7.00\r\n" +
	"\x16=== RUN   TestCapture\n" +
	"\x16=== RUN   TestCapture/IPv4\n" +
	"\x16--- PASS: TestCapture/IPv4 (1.00s)\n" +
	"a process without a newline\x16--- PASS: TestCapture (1.50s)\n" +
	"\x16=== RUN   TestInband\n" +
	"    inband_test.go:1: no option\n" +
	"\x16--- FAIL: TestInband (2.00s)\n" +
	"\x16FAIL\n" +
	"\n== end bpf 1 17.50\n" +
	"== begin cmd/kube-gateway 18\n" +
	"\x16=== RUN   TestUDP\n" +
	"--- PASS: TestUDP (0.00s)\n" + // only a test's words
	"\x16--- SKIP: TestUDP (0.00s)\n" +
	"\x16=== RUN   TestMetrics\n" +
	"about to die\n"

func steps() []step {
	return []step{
		{group{Dir: "bpf", Pods: true}, []string{"TestCapture", "TestInband"}},
		{group{Dir: "cmd/kube-gateway"}, []string{"TestUDP", "TestMetrics"}},
	}
}

func TestFollow(t *testing.T) {
	r := newResults()
	r.expect("5.10", steps())
	var progress bytes.Buffer
	must.Do(t, r.follow("5.10", strings.NewReader(said), &progress))
	want := map[test]outcome{
		{"5.10", "bpf", "TestCapture"}:              {passed, 1500 * time.Millisecond},
		{"5.10", "bpf", "TestInband"}:               {failed, 2 * time.Second},
		{"5.10", "cmd/kube-gateway", "TestUDP"}:     {skipped, 0},
		{"5.10", "cmd/kube-gateway", "TestMetrics"}: {missing, 0},
	}
	if diff := cmp.Diff(want, r.outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	wantProgress := `5.10	Linux 5.10.0-32-cloud-amd64, up 6.78 s
5.10	bpf	PASS	TestCapture	1.5s
5.10	bpf	FAIL	TestInband	2.0s
        inband_test.go:1: no option
FAIL	bpf on Linux 5.10	10.5s
5.10	cmd/kube-gateway	SKIP	TestUDP	0.0s
    --- PASS: TestUDP (0.00s)
    about to die
    
`
	if diff := cmp.Diff(wantProgress, progress.String()); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if err := r.unfinished("5.10", steps()); err == nil || err.Error() != "the guest died before the end of cmd/kube-gateway" {
		t.Errorf("the guest's end: %v", err)
	}
	var report bytes.Buffer
	if r.report(&report, []kernel{{Name: "5.10"}, {Name: "7"}}) {
		t.Error("all is well")
	}
	wantReport := `bpf                   5.10         7
  TestCapture         1.5s         -
  TestInband          FAIL         -
cmd/kube-gateway      5.10         7
  TestMetrics         none         -
  TestUDP             SKIP         -
1 passed, 3 failed
`
	if diff := cmp.Diff(wantReport, report.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// TestExitCode: tests that all passed do not hide that their program failed.
func TestExitCode(t *testing.T) {
	for code, want := range map[string]bool{"0": true, "2": false} {
		r := newResults()
		r.expect("6.1", []step{{group{Dir: "bpf"}, []string{"TestCapture"}}})
		text := "== begin bpf 1\n\x16--- PASS: TestCapture (1.00s)\npanic: after the end\n== end bpf " + code + " 2\n"
		must.Do(t, r.follow("6.1", strings.NewReader(text), new(bytes.Buffer)))
		if got := r.report(new(bytes.Buffer), nil); got != want {
			t.Errorf("exit code %s: all is well: %v", code, got)
		}
	}
}

func TestChoose(t *testing.T) {
	has := []string{"TestA", "TestB", "TestC"}
	for name, c := range map[string]struct {
		group group
		only  string
		want  []string
		err   string
	}{
		"all":              {group{}, ".", has, ""},
		"some":             {group{Tests: []string{"TestC", "TestA"}}, ".", []string{"TestA", "TestC"}, ""},
		"all but one":      {group{Not: []string{"TestB"}}, ".", []string{"TestA", "TestC"}, ""},
		"only":             {group{Tests: []string{"TestA", "TestC"}}, "[BC]$", []string{"TestC"}, ""},
		"renamed":          {group{Dir: "bpf", Tests: []string{"TestD"}}, ".", nil, "bpf has no test TestD"},
		"renamed, not run": {group{Dir: "bpf", Not: []string{"TestD"}}, ".", nil, "bpf has no test TestD"},
	} {
		got, err := c.group.choose(has, regexp.MustCompile(c.only))
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != c.err || !cmp.Equal(got, c.want) {
			t.Errorf("%s: %q, %q; want %q, %q", name, got, text, c.want, c.err)
		}
	}
}

func TestScript(t *testing.T) {
	want := `echo "== begin bpf $(up)"
cd /src/bpf
env A=b C=d /tests/bpf.test -test.v=test2json -test.parallel=1 -test.timeout=1m0s -test.run='^(TestCapture|TestInband)$'
printf '\n== end bpf %d %s\n' $? $(up)
echo "== begin cmd/kube-gateway $(up)"
cd /src/cmd/kube-gateway
env  /tests/cmd-kube-gateway.test -test.v=test2json -test.parallel=1 -test.timeout=1m0s -test.run='^(TestUDP|TestMetrics)$'
printf '\n== end cmd/kube-gateway %d %s\n' $? $(up)
`
	if diff := cmp.Diff(want, script(kernel{Env: []string{"A=b", "C=d"}}, steps(), time.Minute)); diff != "" {
		t.Errorf("script (-want +got):\n%s", diff)
	}
}
