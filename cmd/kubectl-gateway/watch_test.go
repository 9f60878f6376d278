package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/muesli/termenv"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func testEvents() []watch.Event {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	full := api.WithHint(errors.New("the node\nis full\x1b[2J"), "make room")
	return []watch.Event{
		{Time: at, Namespace: "shop", Pod: "web", Action: watch.Enabled, Container: "kube-gateway", Elapsed: 2300 * time.Millisecond, NotAfter: at.Add(720 * time.Hour)},
		{Time: at, Namespace: "shop", Pod: "db", Action: watch.Failed, Err: full, Again: at.Add(4 * time.Second)},
		{Time: at, Namespace: "shop", Pod: "db2", Action: watch.Refused, Err: full},
		{Time: at, Namespace: "shop", Pod: "web", Action: watch.Noticed, Warnings: []string{"mind\nthe gap"}},
		{Time: at, Namespace: "shop", Pod: "web", Action: watch.Signed, Request: "podcertificaterequest/x", Identity: "spiffe://cluster.local/ns/shop/sa/web", NotAfter: at.Add(24 * time.Hour)},
		{Time: at, Namespace: "shop", Pod: "db", Action: watch.Denied, Request: "podcertificaterequest/y", Err: errors.New("NoGateway: pod db has none")},
		{Time: at, Action: watch.Disconnected, Err: errors.New("connection refused")},
		{Time: at, Action: watch.Reconnected},
		{Time: at, Namespace: "shop", Pod: "web", Action: watch.Refreshed, Container: "kube-gateway", Elapsed: 100 * time.Millisecond,
			Covered: &change.Covered{Changed: true, Added: []survey.Part{{What: survey.PartPods, Range: "10.0.2.0/24", Node: "node-2"}}}},
	}
}

func reportOf(format string) (*watchReport, *bytes.Buffer, *bytes.Buffer) {
	var out, errOut bytes.Buffer
	a := &app{IOStreams: genericiooptions.IOStreams{Out: &out, ErrOut: &errOut}}
	return newWatchReport(a, format, watch.Options{Namespace: "shop"}, false), &out, &errOut
}

func TestWatchPrintsALineForEachEvent(t *testing.T) {
	r, out, errOut := reportOf("")
	r.start(func(error) {})
	r.counts = func() watch.Counts { return watch.Counts{Watched: 3, Ready: 1, Failed: 2} }
	for _, e := range testEvents() {
		r.add(e)
	}
	r.finish()
	want := `12:00:00 shop/web enabled (kube-gateway, 2.3s, valid for 30d)
12:00:00 shop/db failed: the node is full\x1b[2J (again in 4s)
hint: make room
12:00:00 shop/db2 refused: the node is full\x1b[2J
12:00:00 shop/web warning: mind the gap
12:00:00 shop/web signed (podcertificaterequest/x, spiffe://cluster.local/ns/shop/sa/web, valid for 24h)
12:00:00 shop/db denied: NoGateway: pod db has none (podcertificaterequest/y)
12:00:00 the API server does not answer: connection refused
12:00:00 the API server answers again
12:00:00 shop/web refreshed (kube-gateway, 0.1s, 1 added: 10.0.2.0/24 (pods of node node-2))
`
	if out.String() != want {
		t.Errorf("got\n%s", out)
	}
	if got := errOut.String(); got != "watching namespace shop\n3 pods watched: 1 ready, 0 in work, 2 failed; 1 enabled, 1 refreshed, 1 signed, 1 denied\n" {
		t.Errorf("on the error stream:\n%s", got)
	}
}

func TestWatchPrintsJSON(t *testing.T) {
	r, out, errOut := reportOf("json")
	r.start(func(error) {})
	for _, e := range testEvents() {
		r.add(e)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != len(testEvents()) || errOut.Len() != 0 {
		t.Fatalf("got\n%s%s", out, errOut)
	}
	if strings.ContainsRune(out.String(), '\x1b') {
		t.Error("a control character got through")
	}
	if want := `{"time":"2026-05-01T12:00:00Z","namespace":"shop","pod":"web","action":"enabled","container":"kube-gateway","seconds":2.3,"certificateNotAfter":"2026-05-31T12:00:00Z"}`; lines[0] != want {
		t.Errorf("got %s", lines[0])
	}
	if want := `"seconds":0.1,"added":[{"what":"pods","range":"10.0.2.0/24","node":"node-2"}]}`; !strings.HasSuffix(lines[len(lines)-1], want) {
		t.Errorf("got %s", lines[len(lines)-1])
	}
	var item watchItem
	if err := json.Unmarshal([]byte(lines[1]), &item); err != nil || item.Error != `the node is full\x1b[2J` || item.Hint != "make room" ||
		item.Action != watch.Failed || item.Again.IsZero() || !item.Again.Equal(testEvents()[1].Again) {
		t.Errorf("got %+v, %v", item, err)
	}
}

func TestWatchEndsWhenNobodyReads(t *testing.T) {
	r, _, _ := reportOf("")
	r.out = brokenPipe{}
	var broken []error
	r.start(func(err error) { broken = append(broken, err) })
	r.add(testEvents()[0])
	r.add(testEvents()[1])
	if len(broken) != 1 || !strings.Contains(broken[0].Error(), "printing events") {
		t.Errorf("got %v", broken)
	}
}

// screen is as much of a terminal as a view needs.
type screen struct {
	t      *testing.T
	rows   []string
	at     int
	hidden bool
	// erased says that the rest of the row was, when that was said before it.
	erased  bool
	widest  int
	scrolls int
	height  int
}

func (s *screen) write(text string) {
	for text != "" {
		switch {
		case strings.HasPrefix(text, "\x1b["):
			end := 2 + strings.IndexFunc(text[2:], func(r rune) bool { return r >= '@' && r <= '~' })
			argument, final := text[2:end], text[end]
			text = text[end+1:]
			switch {
			case final == 'F':
				n := 0
				for _, digit := range argument {
					n = n*10 + int(digit-'0')
				}
				if s.at -= n; s.at < 0 {
					s.t.Fatalf("moved %d rows above the first one", -s.at)
				}
			case final == 'K':
				s.erased = true
			case final == 'J':
				s.rows = s.rows[:s.at]
			case argument == "?25" && final == 'l':
				s.hidden = true
			case argument == "?25" && final == 'h':
				s.hidden = false
			default:
				s.t.Fatalf("unexpected sequence %q%c", argument, final)
			}
		default:
			row, rest, found := strings.Cut(text, "\n")
			if !found {
				s.t.Fatalf("an unfinished line: %q", text)
			}
			content := strings.TrimSuffix(row, "\x1b[K")
			if content == row && !s.erased {
				s.t.Fatalf("the rest of a line is not erased: %q", row)
			}
			s.erased = false
			s.widest = max(s.widest, len([]rune(content)))
			if s.at == len(s.rows) {
				s.rows = append(s.rows, "")
			}
			s.rows[s.at] = content
			s.at++
			text = rest
			if s.at >= s.height {
				s.scrolls++
			}
		}
	}
}

func TestWatchView(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	columns, rows := 40, 12
	v := &watchView{style: terminal.New(nil, true, termenv.Ascii), title: "watching all namespaces",
		live: terminal.NewLiveOf(func() (int, int) { return columns, rows })}
	s := &screen{t: t, height: rows}
	counts := watch.Counts{Watched: 3, Ready: 2, Working: 1, Connected: true, NextRenewal: now.Add(90 * time.Minute)}
	s.write(v.draw(counts, now))
	want := []string{"watching all namespaces", "3 watched, 2 ready, 1 in work, 0 failed", "next renewal in 90m", ""}
	if strings.Join(s.rows, "\n") != strings.Join(want, "\n") || !s.hidden {
		t.Errorf("got %q", s.rows)
	}
	if again := v.draw(counts, now); again != "" {
		t.Errorf("the same frame is drawn again: %q", again)
	}
	for i := range 30 {
		v.add(terminal.Normal, strings.Repeat("x", i*3))
		s.write(v.draw(counts, now))
	}
	if len(s.rows) > rows-1 || s.widest > columns || s.scrolls > 0 {
		t.Errorf("%d rows, %d columns, %d scrolls", len(s.rows), s.widest, s.scrolls)
	}
	if last := s.rows[len(s.rows)-1]; last != strings.Repeat("x", columns) {
		t.Errorf("the last line is %q", last)
	}
	if !strings.HasPrefix(s.rows[0], "watching") || len(s.rows) != rows-1 {
		t.Errorf("got %q", s.rows)
	}
	rows = 3
	s.height = rows
	if s.write(v.draw(counts, now)); len(s.rows) != 2 {
		t.Errorf("%d lines in 3 rows", len(s.rows))
	}
	counts.Connected = false
	if !strings.Contains(v.draw(counts, now), "watching") {
		t.Error("nothing is drawn")
	}
	var drawn strings.Builder
	done := make(chan struct{})
	close(done)
	v.run(func() watch.Counts { return counts }, done, func(text string) bool {
		drawn.WriteString(text)
		return true
	})
	if !strings.HasSuffix(drawn.String(), "\x1b[?25h") {
		t.Error("the cursor stays hidden")
	}
}

// TestWatchMetrics: metrics are served, and those of a replica that waits are others.
func TestWatchMetrics(t *testing.T) {
	h := &watchHealth{ready: func() bool { return true }, metrics: new(watch.Watcher).Metrics}
	ask := func() string {
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if got := answer.Header().Get("Content-Type"); answer.Code != http.StatusOK || got != "text/plain; version=0.0.4; charset=utf-8" {
			t.Errorf("status %d, %s", answer.Code, got)
		}
		return answer.Body.String()
	}
	if text := ask(); !strings.HasSuffix(text, "\nkubectl_gateway_watch_leader 1\n") {
		t.Errorf("got\n%s", text)
	}
	h.standBy(&watch.Election{})
	if text := ask(); !strings.HasSuffix(text, "\nkubectl_gateway_watch_leader 0\n") {
		t.Errorf("of one that waits:\n%s", text)
	}
	h.leads()
	if text := ask(); !strings.HasSuffix(text, "\nkubectl_gateway_watch_leader 1\n") {
		t.Errorf("of one that leads:\n%s", text)
	}
}

func TestWatchHealth(t *testing.T) {
	synced := false
	h := &watchHealth{ready: func() bool { return synced }}
	code := func(path string) int {
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, httptest.NewRequest("GET", path, nil))
		return recorder.Code
	}
	if code("/healthz") != http.StatusOK || code("/readyz") != http.StatusServiceUnavailable || code("/") != http.StatusNotFound {
		t.Error("before the pods are known")
	}
	h.standBy(&watch.Election{})
	if code("/healthz") != http.StatusOK || code("/readyz") != http.StatusOK {
		t.Error("one that stands by is not ready")
	}
	h.leads()
	if code("/readyz") != http.StatusServiceUnavailable {
		t.Error("one that leads is ready before the pods are known")
	}
	synced = true
	if code("/readyz") != http.StatusOK {
		t.Error("not ready when the pods are known")
	}
	stop := must.Get(h.serve("127.0.0.1:0", func(err error) { t.Error(err) }))(t)
	stop()
	if _, err := h.serve("127.0.0.1:-1", nil); err == nil {
		t.Error("a wrong address is no error")
	}
}

func TestWatchPlace(t *testing.T) {
	t.Setenv("KUBECONFIG", t.TempDir()+"/none")
	for _, c := range []struct {
		name      string
		namespace string
		o         watchOptions
		args      []string
		want      string
		names     int
		err       string
	}{
		{"nothing", "", watchOptions{}, nil, "", 0, ""},
		{"-n", "shop", watchOptions{}, nil, "shop", 0, ""},
		{"-A", "", watchOptions{allNamespaces: true}, nil, "", 0, ""},
		{"-A and -n", "shop", watchOptions{allNamespaces: true}, nil, "", 0, ""},
		{"a target", "", watchOptions{}, []string{"deploy/web"}, "default", 1, ""},
		{"a target and -n", "shop", watchOptions{}, []string{"deploy/web", "sts/db"}, "shop", 2, ""},
		{"a target and -A", "", watchOptions{allNamespaces: true}, []string{"deploy/web"}, "", 0, "use -n instead of -A"},
		{"no target", "", watchOptions{}, []string{"svc/web"}, "", 0, "cannot|watched"},
		{"a broken selector", "", watchOptions{selector: "a=(("}, nil, "", 0, "reading the selector"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{flags: genericclioptions.NewConfigFlags(false)}
			a.flags.Namespace = &c.namespace
			got, err := c.o.place(a, c.args)
			if c.err != "" {
				if err == nil {
					t.Fatal("no error")
				}
				return
			}
			if err != nil || got.Namespace != c.want || len(got.Names) != c.names {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestWatchFlags(t *testing.T) {
	cmd := newWatchCommand(&app{})
	if got := cmd.Flags().Lookup("delivery").DefValue; got != "csr" {
		t.Errorf("delivery is %s by default", got)
	}
	if got := newEnableCommand(&app{}, &enableOptions{}).Flags().Lookup("delivery").DefValue; got != "secret" {
		t.Errorf("enable's delivery is %s by default", got)
	}
	for _, line := range []string{"--mode=lax", "-o yaml", "--drain-timeout=-1s", "--cert-ttl=0d", "--once --leader-elect", "--delivery=mail",
		"--sign=mesh", "--sign=kubernetes.io/x", "--sign-for=ns/shop/sa/web", "--sign=example.com/x --sign-for=shop/web", "--sign=example.com/x --sign-for=ns/shop/sa/web:80"} {
		code, _, text := execute(t, append([]string{"watch"}, strings.Fields(line)...)...)
		if code != 1 || !strings.HasPrefix(text, "error: ") || strings.Contains(text, "kubeconfig") {
			t.Errorf("%s: exit code %d, %s", line, code, text)
		}
	}
}

// TestWatchSignsWithAnAuthority: with nothing else, and with all rights.
func TestWatchSignsWithAnAuthority(t *testing.T) {
	cluster, own := fakecluster.New(t), must.Get(ca.New(ca.Options{}))(t)
	var issuer ca.Issuer = &signer.Signer{Choice: signer.Choice{Name: "example.com/mesh", TrustDomain: "cluster.local"}}
	plugin := &watch.Plugin{Client: cluster, Authority: func(context.Context, func(string)) (ca.Issuer, error) { return issuer, nil }}
	o := watchOptions{sign: "example.com/own"}
	_, err := o.signer(t.Context(), plugin, "")
	expect.Refusal(t, "another signer", err, nil, "--sign needs the key of an authority, and certificates come from signer example.com/mesh", "run it where the authority is")
	issuer = own
	plugin = &watch.Plugin{Client: cluster, Authority: plugin.Authority}
	signs := must.Get(o.signer(t.Context(), plugin, "shop"))(t)
	if a, err := signs.Authority(t.Context()); err != nil || a != own || signs.Name != "example.com/own" || signs.Namespace != "shop" {
		t.Errorf("%+v, %v", signs, err)
	}
	cluster.Denied["approve signers"] = true
	_, err = o.signer(t.Context(), plugin, "")
	expect.Refusal(t, "without a right", err, nil, "approve signers.certificates.k8s.io example.com/own", "watch-sign.yaml")
}

func TestWatchTellsOfUpgrades(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	bad := api.WithHint(errors.New("no such\nimage \x1b[2J"), "check --image")
	events := []watch.Event{
		{Time: at, Namespace: "shop", Pod: "web", Action: watch.Upgraded, Container: "kube-gateway-2", Elapsed: 2300 * time.Millisecond},
		{Time: at, Namespace: "shop", Pod: "db", Action: watch.Failed, Err: bad},
		{Time: at, Namespace: "shop", Pod: "db", Action: watch.Halted, Err: bad},
		{Time: at, Action: watch.Resumed},
	}
	halted := watch.Counts{Watched: 3, Ready: 2, Failed: 1, Outdated: 2, Halted: bad, Connected: true}
	r, out, errOut := reportOf("")
	r.start(func(error) {})
	r.counts = func() watch.Counts { return halted }
	for _, e := range events {
		r.add(e)
	}
	r.finish()
	want := `12:00:00 shop/web upgraded (kube-gateway-2, 2.3s)
12:00:00 shop/db failed: no such image \x1b[2J
hint: check --image
12:00:00 no gateway is upgraded any more, since shop/db: no such image \x1b[2J
12:00:00 upgrades go on
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := errOut.String(); !strings.Contains(got, "2 gateways are older than this plugin, and upgrades are halted\n") || !strings.Contains(got, "; 1 upgraded\n") {
		t.Errorf("in the end:\n%s", got)
	}
	j, out, _ := reportOf("json")
	j.add(events[2])
	if want := `"action":"halted","error":"no such image \\x1b[2J","hint":"check --image"}`; !strings.Contains(out.String(), want) {
		t.Errorf("got %s", out)
	}
}

// Certificates are short where somebody renews them.
func TestWatchLifetimes(t *testing.T) {
	authority := must.Get(ca.New(ca.Options{}))(t)
	const given = 12 * time.Hour
	for _, c := range []struct {
		once   bool
		given  time.Duration
		issuer ca.Issuer
		want   time.Duration
	}{
		{false, 0, authority, 24 * time.Hour}, {true, 0, authority, 0}, {false, given, authority, given}, {true, given, authority, given},
		{false, 0, &signer.Signer{}, 0}, {false, given, &signer.Signer{}, given},
	} {
		o := watchOptions{once: c.once}
		o.settings.options.TTL = c.given
		if got := o.certTTL(c.issuer); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
