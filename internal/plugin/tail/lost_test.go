package tail

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// numbered answers with log lines, each the JSON of what follows the time.
func numbered(texts ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, text := range texts {
			var at int
			_, rest, _ := strings.Cut(text, " ")
			fmt.Sscan(text, &at)
			fmt.Fprintf(w, "%s %s\n", time.Date(2030, 5, 1, 12, 0, at, 5000, time.UTC).Format(time.RFC3339Nano), rest)
		}
		w.(http.Flusher).Flush()
	}
}

func connectionLine(at, n int, by string) string {
	if by != "" {
		by = fmt.Sprintf(`,"by":%q`, by)
	}
	return fmt.Sprintf(`%d {"msg":"connection","reason":"line %d"%s,"n":%d}`, at, at, by, n)
}

// TestLostLines: lines that were rotated away while nobody could read them are counted, for each
// process of a gateway, also where no line is printed.
func TestLostLines(t *testing.T) {
	for name, test := range map[string]struct {
		streams [][]string
		options Options
		lines   string
		want    []string
	}{
		"nothing is lost": {streams: [][]string{
			{connectionLine(1, 7, ""), connectionLine(2, 3, "supervisor"), connectionLine(3, 8, "")},
			{connectionLine(3, 8, ""), connectionLine(4, 4, "supervisor"), connectionLine(5, 9, "")},
		}, lines: "1 2 3 4 5"},
		"rotated away": {streams: [][]string{
			{connectionLine(1, 7, ""), connectionLine(2, 3, "supervisor")},
			{connectionLine(9, 60, ""), connectionLine(10, 5, "supervisor")},
		}, lines: "1 2 9 10", want: []string{"warning: 52 lines of the log are lost", "warning: 1 lines of the log are lost"}},
		"filtered": {streams: [][]string{{connectionLine(1, 7, "")}, {connectionLine(2, 9, "")}},
			options: Options{Filter: Filter{Errors: true}}, want: []string{"warning: 1 lines of the log are lost"}},
		"an older gateway": {streams: [][]string{{`1 {"msg":"connection","reason":"line 1"}`}, {`2 {"msg":"connection","reason":"line 2"}`}}, lines: "1 2"},
		"dropped": {streams: [][]string{{connectionLine(1, 1, ""), `2 {"time":"2030-05-01T12:00:02Z","level":"WARN","msg":"log lines dropped","lines":12,"n":2}`}, {connectionLine(3, 3, "")}},
			options: Options{Filter: Filter{Plaintext: true}}, lines: "1 3", want: []string{"warning: the gateway has dropped 12 lines of its log\nhint: --limit"}},
		"another level": {streams: [][]string{{`1 {"time":"2030-05-01T12:00:02Z","level":"INFO","msg":"settings changed","log":"none","by":"supervisor","n":1}`}, {connectionLine(3, 3, "")}},
			lines: "3", want: []string{"pod/web -n demo: from now on the log has level none"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := &logs{pods: map[string]*corev1.Pod{"web": gatewayPod("web", up)}}
			l.streams = map[string][]http.HandlerFunc{"web": {numbered(test.streams[0]...), l.then(numbered(test.streams[1]...), nil)}}
			test.options.Follow, test.options.Lines = true, 10
			tailer, out, errOut := l.tailer(t, test.options)
			run(bounded(t), t, tailer, *gatewayPod("web", up))
			out.hasLines(t, test.lines)
			errOut.says(t, test.want...)
			if got := errOut.String(); strings.Count(got, "lost") > len(test.want) || len(test.want) == 0 && strings.Contains(got, "warning") {
				t.Errorf("it says %s", got)
			}
		})
	}
}

// TestProcessesAreBounded: a gateway that somebody has taken over may have as many as it likes.
func TestProcessesAreBounded(t *testing.T) {
	at := cursor{fromStart: true}
	for i := range 10 * maxProcesses {
		at.missing(number{By: fmt.Sprint("worker-", i), N: 1})
	}
	at.missing(number{By: strings.Repeat("x", maxName+1), N: 1})
	if n := len(at.numbers); n != maxProcesses {
		t.Errorf("%d processes are remembered", n)
	}
	if lost := at.missing(number{By: "worker-7", N: 5}); lost != 3 {
		t.Errorf("%d lines of a known one are lost", lost)
	}
}

// TestLogBeginsLater: what was asked for may reach further back than what the node has.
func TestLogBeginsLater(t *testing.T) {
	for name, test := range map[string]struct {
		options  Options
		oldest   string
		requests int
		want     string
	}{
		"all lines":                    {Options{Lines: -1}, "", 1, "warning: 40 lines of the log are lost"},
		"the last ones":                {Options{Lines: 10}, "", 1, ""},
		"young ones, all are there":    {Options{Lines: -1, Since: time.Hour}, connectionLine(4, 40, ""), 2, ""},
		"young ones, some are gone":    {Options{Lines: -1, Since: time.Hour}, connectionLine(5, 41, ""), 2, "warning: 40 lines before the first one are lost, and some may be younger than --since"},
		"young ones, rotated just now": {Options{Lines: -1, Since: time.Hour}, connectionLine(6, 42, ""), 2, "warning: 40 lines before the first one are lost, and some may be younger than --since"},
	} {
		t.Run(name, func(t *testing.T) {
			l := &logs{streams: map[string][]http.HandlerFunc{"web": {numbered(connectionLine(5, 41, ""), connectionLine(6, 42, "")), numbered(test.oldest)}}}
			tailer, out, errOut := l.tailer(t, test.options)
			run(bounded(t), t, tailer, *gatewayPod("web", up))
			out.hasLines(t, "5 6")
			errOut.says(t, test.want)
			if got := errOut.String(); test.want == "" && got != "" {
				t.Errorf("it says %s", got)
			}
			if n := len(l.queries["web"]); n != test.requests {
				t.Errorf("%d requests for the log, want %d", n, test.requests)
			}
		})
	}
}

// TestSilentStreamIsOpenedAnew: a kubelet that follows a file which it has rotated away does not
// keep the lines behind it from being read.
func TestSilentStreamIsOpenedAnew(t *testing.T) {
	l := &logs{pods: map[string]*corev1.Pod{"web": gatewayPod("web", up)}}
	stuck := func(w http.ResponseWriter, r *http.Request) {
		numbered(connectionLine(1, 1, ""))(w, r)
		<-r.Context().Done()
	}
	l.streams = map[string][]http.HandlerFunc{"web": {stuck, stuck, l.then(numbered(connectionLine(1, 1, ""), connectionLine(2, 4, "")), nil)}}
	tailer, out, errOut := l.tailer(t, Options{Follow: true, Lines: 10})
	tailer.Idle = 50 * time.Millisecond
	run(bounded(t), t, tailer, *gatewayPod("web", up))
	out.hasLines(t, "1 2")
	errOut.says(t, "2 lines of the log are lost", "the pod is gone")
	if strings.Contains(errOut.String(), "broke") {
		t.Errorf("a silent log is reported: %s", errOut)
	}
}

// TestLevelIsReported: why a gateway logs little is said before its log is read.
func TestLevelIsReported(t *testing.T) {
	pod := gatewayPod("web", up)
	config := `{"version":1,"pod":{"namespace":"demo","name":"web","uid":"web"},"podIPs":["10.0.1.7"],"trustDomain":"td","mode":"strict","onFailure":"open","log":"refused","ranges":["10.0.0.0/8"]}`
	for i := range pod.Spec.EphemeralContainers[0].Env {
		if env := &pod.Spec.EphemeralContainers[0].Env[i]; env.Name == api.EnvConfig {
			env.Value = config
		}
	}
	l := &logs{streams: map[string][]http.HandlerFunc{"web": {lines(0, 1)}}}
	tailer, _, errOut := l.tailer(t, Options{Lines: -1})
	run(bounded(t), t, tailer, *pod)
	errOut.says(t, "the gateway was started with --log=refused\nhint: 'kubectl gateway log pod/web -n demo connections'")
}
