package watch

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// metricsNamespace is what the names of all metrics begin with.
const metricsNamespace = "kubectl_gateway_watch_"

// reason is why a step failed, as metrics count it.
type reason string

const (
	// reasonRefused is a pod that can have no gateway.
	reasonRefused reason = "refused"
	// reasonForbidden is a right that is missing.
	reasonForbidden reason = "forbidden"
	// reasonUnreachable is an API server that is away or busy.
	reasonUnreachable reason = "unreachable"
	reasonTimeout     reason = "timeout"
	// reasonAuthority is an authority that cannot be read.
	reasonAuthority reason = "authority"
	reasonOther     reason = "other"
)

// authorityError says that a step failed because of the authority.
type authorityError struct{ error }

func (e authorityError) Unwrap() error { return e.error }

func reasonOf(out Outcome) reason {
	var authority authorityError
	switch {
	case out.Refused:
		return reasonRefused
	case errors.As(out.Err, &authority):
		return reasonAuthority
	case apierrors.IsForbidden(out.Err):
		return reasonForbidden
	// It is a network error, too.
	case errors.Is(out.Err, context.DeadlineExceeded):
		return reasonTimeout
	case unreachable(out.Err):
		return reasonUnreachable
	}
	return reasonOther
}

// tally counts what was done.
type tally struct {
	// steps counts them by their result, "done" or "failed".
	steps    map[step]map[string]int
	failures map[reason]int
	// synced is when the cluster was last read in whole.
	synced time.Time
}

func newTally() tally { return tally{steps: map[step]map[string]int{}, failures: map[reason]int{}} }

func (t *tally) count(step step, result string) {
	if t.steps[step] == nil {
		t.steps[step] = map[string]int{}
	}
	t.steps[step][result]++
}

// seen is what the last look at a gateway that answers has shown. It stays while the gateway cannot be reached.
type seen struct {
	cert api.Certificate
	// older is a gateway of an older version than watch, permissive one that is so where new ones are
	// strict, and behind one that captures something else than the cluster has.
	older, permissive, behind bool
}

// lifetimes are the bounds of what certificates have left, as metrics count them.
func lifetimes() []struct {
	label string
	left  time.Duration
} {
	const day = 24 * time.Hour
	return []struct {
		label string
		left  time.Duration
	}{{"expired", 0}, {"1h", time.Hour}, {"6h", 6 * time.Hour}, {"1d", day}, {"7d", 7 * day}, {"30d", 30 * day}}
}

// beyond is what certificates have left that last longer than all lifetimes.
const beyond = "more"

// families collects metrics.
type families []api.MetricFamily

func (f *families) add(kind, name, help string, samples ...api.MetricSample) {
	*f = append(*f, api.MetricFamily{Name: metricsNamespace + name, Help: help, Type: kind, Samples: samples})
}

func (f *families) gauge(name, help string, value float64) {
	f.add("gauge", name, help, api.MetricSample{Value: value})
}

// labelled is a sample for each value of a label.
func labelled(label string, values []string, n func(value string) int) (samples []api.MetricSample) {
	for _, value := range values {
		samples = append(samples, api.MetricSample{Labels: map[string]string{label: value}, Value: float64(n(value))})
	}
	return samples
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Metrics returns what watch tells Prometheus at the time now. leads is false for a replica that waits to be
// elected. What is not known yet is left out.
func (w *Watcher) Metrics(leads bool, now time.Time) *api.Metrics {
	var all families
	all.gauge("leader", "Whether this replica works; the others wait.", oneIf(leads))
	if w.Synced() {
		w.addState(&all)
		w.mu.Lock()
		w.addWork(&all)
		w.addGateways(&all, now)
		w.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b api.MetricFamily) int { return strings.Compare(a.Name, b.Name) })
	return &api.Metrics{Families: all}
}

// addState adds where everything stands.
func (w *Watcher) addState(all *families) {
	c := w.Counts()
	pods := map[string]int{"ready": c.Ready, "working": c.Working, "failed": c.Failed}
	all.add("gauge", "pods", "Pods that have or are to have a gateway, by what is known of it.",
		labelled("state", []string{"ready", "working", "failed"}, func(state string) int { return pods[state] })...)
	all.gauge("connected", "Whether the API server answers.", oneIf(c.Connected))
	all.gauge("outdated", "Gateways that are older than watch, and that it is to upgrade.", float64(c.Outdated))
	all.gauge("upgrades_halted", "Whether no gateway is upgraded any more because one upgrade has failed.", oneIf(c.Halted != nil))
	all.gauge("queue_length", "Pods that are to be looked at now.", float64(w.queue.Len()+w.shares.waiting()))
}

// addWork adds what was done. w.mu is held.
func (w *Watcher) addWork(all *families) {
	if !w.tally.synced.IsZero() {
		all.gauge("last_sync_timestamp_seconds", "When all gateways were last compared with what the cluster has, in seconds since 1970.", float64(w.tally.synced.Unix()))
	}
	var steps []api.MetricSample
	for _, step := range []step{toAsk, toDisable, toEnable, toRefresh, toRenew, toUpgrade} {
		for _, sample := range labelled("result", []string{"done", "failed"}, func(result string) int { return w.tally.steps[step][result] }) {
			sample.Labels["step"] = string(step)
			steps = append(steps, sample)
		}
	}
	all.add("counter", "steps_total", "Steps about pods, by what was to be done and what came of it.", steps...)
	all.add("counter", "failures_total", "Steps that failed, by the reason.", labelled("reason", []string{
		string(reasonAuthority), string(reasonForbidden), string(reasonOther), string(reasonRefused), string(reasonTimeout), string(reasonUnreachable),
	}, func(value string) int { return w.tally.failures[reason(value)] })...)
}

// addGateways adds what the gateways have shown. w.mu is held.
func (w *Watcher) addGateways(all *families, now time.Time) {
	left, drift, overdue := map[string]int{}, map[string]int{}, 0
	count := func(of string, differs bool) {
		if differs {
			drift[of]++
		}
	}
	for _, r := range w.records {
		if r.seen.cert.NotAfter.IsZero() {
			continue
		}
		left[leftOf(r.seen.cert.NotAfter.Sub(now))]++
		if at, ok := RenewAt(r.seen.cert, string(r.uid)); ok && at.Before(now) {
			overdue++
		}
		count("certificate", !now.Before(r.seen.cert.NotAfter))
		count("coverage", r.seen.behind)
		count("mode", r.seen.permissive)
		count("version", r.seen.older)
	}
	var labels []string
	for _, l := range lifetimes() {
		labels = append(labels, l.label)
	}
	all.add("gauge", "certificates", "Certificates of gateways by the time that they have left: at most that of the label, and more than that of the label before.",
		labelled("left", append(labels, beyond), func(label string) int { return left[label] })...)
	all.gauge("renewals_overdue", "Certificates of gateways that are past the time at which they are renewed.", float64(overdue))
	all.add("gauge", "drift", "Gateways that are not as wanted: whose certificate has expired, that lack what the cluster has, that are permissive where new ones are strict, or that are older than watch.",
		labelled("of", []string{"certificate", "coverage", "mode", "version"}, func(of string) int { return drift[of] })...)
}

// leftOf returns the label for what a certificate has left.
func leftOf(left time.Duration) string {
	for _, l := range lifetimes() {
		if left <= l.left {
			return l.label
		}
	}
	return beyond
}
