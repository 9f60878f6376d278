package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// fullWatcher has a value for every metric at the time now.
func fullWatcher(now time.Time) *Watcher {
	w := &Watcher{records: map[types.NamespacedName]*record{}, tally: newTally(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.NamespacedName]())}
	w.synced.Store(true)
	w.rollout.halted = errors.New("no such image")
	w.tally.synced = now.Add(-time.Minute)
	n := 0
	add := func(phase phase, seen seen) {
		n++
		key := types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("p-", n)}
		w.records[key] = &record{uid: types.UID(key.Name), phase: phase, seen: seen, older: seen.older}
	}
	valid := func(left time.Duration) api.Certificate {
		return api.Certificate{Serial: "1", NotBefore: now.Add(left - 90*24*time.Hour), NotAfter: now.Add(left)}
	}
	for i, left := range []time.Duration{-time.Second, time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 29 * 24 * time.Hour, 80 * 24 * time.Hour} {
		for j := range i + 1 {
			add(ready, seen{cert: valid(left), permissive: i == 4, behind: i == 5 && j < 2, older: i == 6 && j < 3})
		}
	}
	// Nothing is known of their gateways.
	add(failed, seen{})
	add(working, seen{})
	add(working, seen{})
	for i, step := range []step{toEnable, toDisable, toRenew, toRefresh, toUpgrade, toAsk} {
		for range i + 1 {
			w.tally.count(step, "failed")
		}
		for range 10 + i {
			w.tally.count(step, "done")
		}
	}
	for i, reason := range []reason{reasonAuthority, reasonForbidden, reasonRefused, reasonTimeout, reasonUnreachable, reasonOther} {
		w.tally.failures[reason] = i + 1
	}
	for i := range 4 {
		w.queue.Add(types.NamespacedName{Name: fmt.Sprint(i)})
	}
	return w
}

// TestMetrics compares all metrics with those that the dashboard's and the alerts' queries are held against.
func TestMetrics(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	w := fullWatcher(now)
	defer w.queue.ShutDown()
	text := output.Exposition(w.Metrics(true, now))
	golden.Check(t, "metrics.prom", text)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", err, problems)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
		t.Error(err)
	}
}

// values returns the samples of m that are not 0, as an exposition has them.
func values(m *api.Metrics) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(output.Exposition(m)) {
		name, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, metricsNamespace)), " ")
		if ok && name != "#" && value != "0" {
			all[name] = value
		}
	}
	return all
}

// TestMetricsOfAStandby: a replica that waits knows nothing of the pods, and does not say that there are none.
func TestMetricsOfAStandby(t *testing.T) {
	w := &Watcher{}
	expect.Equal(t, "metrics", "kubectl_gateway_watch_leader 0\n", lastLine(output.Exposition(w.Metrics(false, time.Now()))))
	expect.Equal(t, "metrics of one that begins", map[string]string{"leader": "1"}, values(w.Metrics(true, time.Now())))
}

func lastLine(text string) string {
	lines := strings.SplitAfter(text, "\n")
	return lines[len(lines)-2]
}

// TestMetricsOfWork: what is done, what fails and what gateways show is counted.
func TestMetricsOfWork(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "p", errors.New("no rule"))
	errs := map[string]error{
		"refused": errRefused, "forbidden": fmt.Errorf("patching: %w", forbidden), "slow": fmt.Errorf("waiting: %w", context.DeadlineExceeded),
		"away": apierrors.NewServiceUnavailable("away"), "authority": authorityError{errors.New("no authority")}, "odd": errors.New("odd"),
	}
	objects := []runtime.Object{annotatedNamespace(), fakecluster.NewPod("good")}
	for name := range errs {
		objects = append(objects, fakecluster.NewPod(name))
	}
	inWorld(t, objects, func(t *testing.T, w *world) {
		w.fail = func(step step, pod string) error { return errs[pod] }
		w.run(Options{Mode: api.Strict}, func(watcher *Watcher) {
			want := map[string]string{
				"leader": "1", "connected": "1",
				`pods{state="ready"}`: "1", `pods{state="failed"}`: "6",
				`steps_total{result="done",step="enable"}`: "1", `steps_total{result="failed",step="enable"}`: "6",
				`certificates{left="1d"}`: "1", `drift{of="mode"}`: "1",
			}
			for _, reason := range []reason{reasonAuthority, reasonForbidden, reasonRefused, reasonTimeout, reasonUnreachable, reasonOther} {
				want[fmt.Sprintf(`failures_total{reason=%q}`, reason)] = "1"
			}
			got := values(watcher.Metrics(true, time.Now()))
			if want["last_sync_timestamp_seconds"] = got["last_sync_timestamp_seconds"]; got["last_sync_timestamp_seconds"] == "" {
				t.Error("nothing was synced")
			}
			expect.Equal(t, "metrics", want, got)

			// A gateway that cannot be renewed is seen to expire.
			w.failing(errors.New("no"), func(step, string) bool { return true })
			time.Sleep(25 * time.Hour)
			synctest.Wait()
			got = values(watcher.Metrics(true, time.Now()))
			for name, value := range map[string]string{`certificates{left="expired"}`: "1", `drift{of="certificate"}`: "1", "renewals_overdue": "1"} {
				expect.Equal(t, name, value, got[name])
			}
		})
	})
}

// TestReasons: the error of an authority that cannot be read keeps its words and its hint.
func TestReasons(t *testing.T) {
	p := &Plugin{Authority: func(context.Context, func(string)) (ca.Issuer, error) {
		return nil, api.WithHint(errors.New("gone"), "init-ca")
	}}
	_, err := p.Issuer(t.Context())
	if err == nil || err.Error() != "gone" || api.Hint(err) != "init-ca" || reasonOf(Outcome{Err: fmt.Errorf("enabling: %w", err)}) != reasonAuthority {
		t.Errorf("%v, hint %q, reason %s", err, api.Hint(err), reasonOf(Outcome{Err: err}))
	}
}
