package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
)

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

	h := &watchHealth{ready: func() bool { return true }, counts: func() watch.Counts { return halted }}
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{`kubectl_gateway_watch_pods{state="ready"} 2`, `kubectl_gateway_watch_pods{state="failed"} 1`, "kubectl_gateway_watch_outdated 2",
		"kubectl_gateway_watch_upgrades_halted 1", "kubectl_gateway_watch_connected 1"} {
		if !strings.Contains(answer.Body.String(), line+"\n") {
			t.Errorf("no %s in\n%s", line, answer.Body)
		}
	}
}
