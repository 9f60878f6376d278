package tail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// cluster is an API server that tells of pods as they come and go, besides logs.
type cluster struct {
	logs
	events chan *corev1.Pod
	// refuse has it tell nothing.
	refuse bool

	watched sync.Map
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api/v1/namespaces/demo/pods" {
		c.logs.ServeHTTP(w, r)
		return
	}
	c.watched.Store("selector", r.URL.Query().Get("labelSelector"))
	switch {
	case c.refuse:
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, "no role for pods")
	case r.URL.Query().Get("watch") == "":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}})
	case r.URL.Query().Get("sendInitialEvents") == "true":
		refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "lists have to do")
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case pod := <-c.events:
				text, _ := json.Marshal(pod)
				fmt.Fprintf(w, `{"type":"MODIFIED","object":%s}`+"\n", text)
				w.(http.Flusher).Flush()
			}
		}
	}
}

// change tells of a pod.
func (c *cluster) change(version int, pod *corev1.Pod) {
	pod.ResourceVersion = fmt.Sprint(version)
	c.set(pod.Name, pod)
	c.events <- pod
}

func (c *cluster) tailer(t *testing.T, o Options) (*Tailer, *output, *output) {
	c.events = make(chan *corev1.Pod, 100)
	if c.pods == nil {
		c.pods = map[string]*corev1.Pod{}
	}
	o.Follow = true
	tailer, out, errOut := c.logs.tailerOf(t, c, o)
	tailer.Join = &Join{Namespaces: []string{"demo"}, LabelSelector: "app=x"}
	return tailer, out, errOut
}

// then has do run once text has been written to o.
func (o *output) then(text string, do func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.wait == nil {
		o.wait = map[string]func(){}
	}
	o.wait[text] = do
}

// stay answers with lines and then waits for the client to go, or for end.
func stay(first, n int, end <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		writeLines(w, first, n)
		select {
		case <-r.Context().Done():
		case <-end:
		}
	}
}

func TestPodsJoin(t *testing.T) {
	c := &cluster{}
	c.streams = map[string][]http.HandlerFunc{"web": {stay(0, 1, nil)}, "late": {stay(5, 2, nil)}, "stranger": {stay(9, 1, nil)}}
	tailer, out, errOut := c.tailer(t, Options{Lines: 1})
	tailer.Join.Belongs = func(_ context.Context, pod *corev1.Pod) (bool, error) { return pod.Name != "stranger", nil }
	ctx, cancel := context.WithCancel(bounded(t))
	out.then("line 0", func() {
		starts := gatewayPod("late", corev1.ContainerState{})
		c.change(2, starts)
		c.change(3, gatewayPod("stranger", up))
		c.change(4, gatewayPod("bare"))
		c.change(5, gatewayPod("late", up))
		c.change(6, gatewayPod("late", up))
	})
	out.then("line 6", cancel)
	run(ctx, t, tailer, *gatewayPod("web", up))
	out.hasLines(t, "0 5 6")
	if got := errOut.String(); got != "pod/late -n demo: has a gateway, following it\n" {
		t.Errorf("stderr %q", got)
	}
	if selector, _ := c.watched.Load("selector"); selector != "app=x" {
		t.Errorf("watched %q", selector)
	}
	// All of a log that began while following.
	if q := c.query("late", 0); q.Has("tailLines") || q.Has("sinceSeconds") {
		t.Errorf("asked for %v", q)
	}
}

// A further gateway of a pod is followed, and what is known of the first is not
// printed again.
func TestAnotherGatewayJoins(t *testing.T) {
	c := &cluster{}
	ended := make(chan struct{})
	c.streams = map[string][]http.HandlerFunc{"web": {stay(0, 1, ended), lines(0, 2), stay(7, 1, nil)}}
	tailer, out, errOut := c.tailer(t, Options{Lines: -1})
	ctx, cancel := context.WithCancel(bounded(t))
	out.then("line 0", func() { c.set("web", gatewayPod("web", dead)); close(ended) })
	errOut.then("exit code 2", func() {
		c.change(2, gatewayPod("web", dead))
		c.change(3, gatewayPod("web", dead, corev1.ContainerState{}))
		c.change(4, gatewayPod("web", dead, up))
	})
	out.then("line 7", cancel)
	run(ctx, t, tailer, *gatewayPod("web", up))
	out.hasLines(t, "0 1 7")
	if got := c.query("web", 2).Get("container"); got != "kube-gateway-2" {
		t.Errorf("followed %s", got)
	}
}

func TestNoRoomForOneThatJoins(t *testing.T) {
	c := &cluster{}
	ended := make(chan struct{})
	c.streams = map[string][]http.HandlerFunc{"web": {stay(0, 1, ended)}, "late": {stay(5, 1, nil)}}
	c.pods = map[string]*corev1.Pod{}
	tailer, out, errOut := c.tailer(t, Options{Parallel: 1})
	ctx, cancel := context.WithCancel(bounded(t))
	out.then("line 0", func() {
		c.change(2, gatewayPod("late", up))
		c.change(3, gatewayPod("late", up))
	})
	// When the first goes, there is.
	errOut.then("raise --max-log-requests", func() { close(ended) })
	out.then("line 5", cancel)
	run(ctx, t, tailer, *gatewayPod("web", up))
	out.hasLines(t, "0 5")
	if got := errOut.String(); strings.Count(got, "pod/late -n demo: warning: not followed: that would be more than 1 logs at a time\nhint: raise --max-log-requests\n") != 1 {
		t.Errorf("stderr %q", got)
	}
}

// Without the right to watch, those that are there are followed to their end.
func TestWithoutTheRightToWatch(t *testing.T) {
	c := &cluster{refuse: true}
	ended := make(chan struct{})
	c.streams = map[string][]http.HandlerFunc{"web": {stay(0, 1, ended)}}
	tailer, out, errOut := c.tailer(t, Options{})
	errOut.then("hint: ask for a role that may list and watch pods", func() { close(ended) })
	run(bounded(t), t, tailer, *gatewayPod("web", up))
	out.hasLines(t, "0")
	errOut.says(t, "new pods are not followed")
}

// While joining, a server that is away is waited for as long as it takes.
func TestNeverGivesUpWhileJoining(t *testing.T) {
	c := &cluster{}
	fails := refuses(http.StatusInternalServerError, metav1.StatusReasonInternalError, "away")
	c.streams = map[string][]http.HandlerFunc{"web": append(append([]http.HandlerFunc{lines(0, 1)}, slices.Repeat([]http.HandlerFunc{fails}, 20)...), stay(0, 2, nil))}
	c.pods = map[string]*corev1.Pod{"web": gatewayPod("web", up)}
	tailer, out, errOut := c.tailer(t, Options{})
	ctx, cancel := context.WithCancel(bounded(t))
	out.then("line 1", cancel)
	run(ctx, t, tailer, *gatewayPod("web", up))
	out.hasLines(t, "0 1")
	if strings.Count(errOut.String(), "away") != 1 {
		t.Errorf("stderr %q", errOut)
	}
}

// Lines of one instant, and a line that was cut in two, are printed once each.
func TestTheBoundaryOfABrokenStream(t *testing.T) {
	line := func(stamp string, n int) string {
		return fmt.Sprintf("2030-05-01T12:00:%sZ {\"msg\":\"connection\",\"reason\":\"line %d\"}\n", stamp, n)
	}
	answer := func(parts ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Join(parts, "")) }
	}
	l := &logs{pods: map[string]*corev1.Pod{"web": gatewayPod("web", up)}}
	cut := line("02.5", 4)
	l.streams = map[string][]http.HandlerFunc{"web": {
		answer(line("01", 1), line("02.5", 2), line("02.5", 3), cut[:len(cut)-9]),
		// The clock of the node went back between 5 and 6.
		answer(line("02.4", 0), line("02.5", 2), line("02.5", 3), cut, line("03", 5), line("01", 6)),
		l.then(answer(line("03", 5), strings.TrimSuffix(line("04", 7), "\n")), nil),
	}}
	tailer, out, _ := l.tailer(t, Options{Follow: true, Lines: -1})
	run(bounded(t), t, tailer, *gatewayPod("web", up))
	out.hasLines(t, "1 2 3 4 5 6 7")
}

// With --tail=0 the lines that come while the stream is broken are new.
func TestNothingIsLostBeforeTheFirstLine(t *testing.T) {
	for _, c := range []struct {
		o             Options
		tail, seconds string
	}{{Options{Lines: 0}, "", "1"}, {Options{Lines: 5}, "", ""}, {Options{Lines: -1, Since: time.Hour}, "", "3601"}} {
		l := &logs{pods: map[string]*corev1.Pod{"web": gatewayPod("web", up)}}
		l.streams = map[string][]http.HandlerFunc{"web": {lines(0, 0), lines(0, 0), l.then(lines(3, 1), nil)}}
		c.o.Follow = true
		tailer, _, _ := l.tailer(t, c.o)
		run(bounded(t), t, tailer, *gatewayPod("web", up))
		if q := l.query("web", 1); q.Get("tailLines") != c.tail || q.Get("sinceSeconds") != c.seconds {
			t.Errorf("%+v: asked for %v", c.o, q)
		}
	}
}

func TestFilter(t *testing.T) {
	broken := strings.Replace(plaintextLine, `"duration"`, `"error":"reset","duration"`, 1)
	all := map[string]string{"encrypted": encryptedLine, "plaintext": plaintextLine, "refused": refusedLine, "broke": inboundLine,
		"both": broken, "warning": `{"time":"2030-05-01T12:00:01Z","level":"WARN","msg":"x"}`, "raw": "panic: x"}
	for _, c := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "both broke encrypted plaintext raw refused warning"},
		{Filter{Plaintext: true}, "both plaintext"},
		{Filter{Errors: true}, "both broke raw refused warning"},
		{Filter{Plaintext: true, Errors: true}, "both broke plaintext raw refused warning"},
	} {
		var got []string
		for name, line := range all {
			if e := parse([]byte(line)); c.f.keeps(&e) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v keeps %q", c.f, got)
		}
	}
}

func TestTemplate(t *testing.T) {
	for text, want := range map[string]string{
		`{{.Namespace}}/{{.Pod}} {{.Source}} {{.Peer}} {{.Encrypted}} {{bytes .Sent}}`: "demo/web 10.0.1.5:40000 spiffe://td/ns/demo/sa/default true 1.5KiB\n",
		"{{.Wire}}\n": "port\n",
		`{{.Source.Addr}} {{.Source.Port}} {{if eq .Destination.Port 9000}}yes{{end}} {{with .Destination}}{{.Addr}}{{end}}`:   "10.0.1.5 40000 yes 10.0.2.2\n",
		`{{toTimestamp .Time "15:04:05.000"}} {{toTimestamp .Time "15:04" "Europe/Berlin"}} {{.Time | toUTC | toRFC3339Nano}}`: "12:00:01.500 14:00 2030-05-01T12:00:01.5Z\n",
		`{{range $i := 3}}{{if $i}}{{break}}{{end}}{{slice $.Pod 1}}{{end}}{{define "x"}}<{{.}}>{{end}}{{template "x" .Wire}}`: "eb<port>\n",
		`{{json .}}`: `{"time":"2030-05-01T12:00:01.5Z","level":"INFO","msg":"connection","direction":"outbound","source":"10.0.1.5:40000","destination":"10.0.2.2:9000","peer":"spiffe://td/ns/demo/sa/default","wire":"port","encrypted":true,"bytesSent":1536,"bytesReceived":12,"duration":1.2345,"namespace":"demo","pod":"web"}` + "\n",
	} {
		template := must.Get(NewTemplate(text))(t)
		if got := made(t, template, encryptedLine); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
		if got := made(t, template, "panic: x"); got != "" {
			t.Errorf("raw: %q", got)
		}
	}
	for _, text := range []string{"{{", "{{.Pood}}", "{{bytes .Pod}}", "{{nothing}}", " \n", "{{index .Pod 9}}", `{{template "x"}}`,
		`{{.Time.Format "15:04"}}`, `{{.Source.Addr.Is4}}`, `{{toTimestamp .Time "15" "Nowhere/At all"}}`, `{{toTimestamp .Time "15" "UTC" "UTC"}}`} {
		if _, err := NewTemplate(text); err == nil || api.Hint(err) == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
	// What a gateway says stays text.
	template, _ := NewTemplate(`{{.Peer}} {{.Source}} {{.Error}} {{printf "%s" .Direction}} {{.Source.Addr}} {{.TLS.Version}}{{.TLS.Cipher}}{{.TLS.Remote}} {{json .}}`)
	evil := `{"tls":{"version":"\u001b","cipher":"\u001b","keyExchange":"\u001b","remote":"[fe80::1%\u001b]:1"},"msg":"connection","peer":"\u001b[2J","source":"[fe80::1%\u001b]:1","error":"a\nb","direction":"\u009b\u202e","level":"\u001b","wire":"\u001b","reason":"\u001b"}`
	out := made(t, template, evil)
	if strings.ContainsFunc(strings.TrimSuffix(out, "\n"), func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Errorf("%q", out)
	}
}

// A template that fails in the middle ends everything, and says why.
func TestTemplateThatFails(t *testing.T) {
	l := &logs{streams: map[string][]http.HandlerFunc{"web": {lines(0, 1)}}}
	tailer, _, _ := l.tailer(t, Options{Lines: -1})
	template := must.Get(NewTemplate(`{{if eq .Reason "line 0"}}{{index .Pod 99}}{{end}}`))(t)
	tailer.Formatter = template
	if err := tailer.Run(bounded(t), []corev1.Pod{*gatewayPod("web", up)}); !errors.Is(err, errOutput) || !strings.Contains(err.Error(), "applying the template") {
		t.Errorf("got %v", err)
	}
}

// TestBothAreFollowed while a gateway drains whose place another one took: neither loses a line.
func TestBothAreFollowed(t *testing.T) {
	for name, fromTheStart := range map[string]bool{"it joins": false, "it is there": true} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{}
			broken := make(chan struct{})
			var streams atomic.Int32
			both := func(first corev1.ContainerState) *corev1.Pod {
				pod := gatewayPod("web", first, up)
				pod.Spec.EphemeralContainers[1].Env[0].Value = `{"replaces":"kube-gateway"}`
				return pod
			}
			old := func(w http.ResponseWriter, r *http.Request) {
				if streams.Add(1) == 1 {
					writeLines(w, 0, 1)
					<-broken
					return
				}
				// It runs on, and what was open has ended.
				if r.URL.Query().Get("follow") == "true" {
					writeLines(w, 1, 1)
				}
				c.set("web", both(dead))
			}
			next := func(w http.ResponseWriter, r *http.Request) { writeLines(w, 7, 1); <-r.Context().Done() }
			by := func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("container") == "kube-gateway-2" {
					next(w, r)
				} else {
					old(w, r)
				}
			}
			rest := func(w http.ResponseWriter, r *http.Request) { writeLines(w, 1, 1) }
			c.streams = map[string][]http.HandlerFunc{"web": {by, by, by, rest}}
			tailer, out, errOut := c.tailer(t, Options{Lines: 10})
			ctx, cancel := context.WithCancel(bounded(t))
			out.then("line 7", func() { close(broken) })
			out.then("line 1", func() { time.AfterFunc(100*time.Millisecond, cancel) })
			start := gatewayPod("web", up)
			if fromTheStart {
				start = both(up)
				c.set("web", start)
			} else {
				c.set("web", start)
				out.then("line 0", func() { c.change(2, both(up)) })
			}
			run(ctx, t, tailer, *start)
			for _, line := range []string{"line 0", "line 1", "line 7"} {
				if n := strings.Count(out.text.String(), line); n != 1 {
					t.Errorf("%q is printed %d times", line, n)
				}
			}
			if text := errOut.text.String(); strings.Contains(text, "is to take the place") == fromTheStart || strings.Contains(text, "has a successor") {
				t.Errorf("stderr %q", text)
			}
		})
	}
}
