package remote

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
)

// answerMargin is left for a gateway's answer to travel before a timeout, so that the
// gateway can say itself what it waits for.
const answerMargin = time.Second

// Status asks the gateway how it is. A status that the gateway printed before its
// command failed comes with the error.
func (g *Conn) Status(ctx context.Context) (*api.Status, error) {
	if status, err := g.readStatus(ctx, 0); err == nil {
		return status, nil
	}
	return ask(ctx, g, nil, g.checkStatus, "status")
}

// Await is Status once the gateway is ready or waits for a certificate, or else right
// before ctx ends, or after a minute if that has no deadline.
func (g *Conn) Await(ctx context.Context) (status *api.Status, err error) {
	for _, pause := range startPauses() {
		if status, err = g.readStatus(ctx, patience(ctx)); err == nil {
			return status, nil
		}
		if !errors.Is(err, errSilent) || resend.Pause(ctx, pause) != nil {
			break
		}
	}
	err = g.retry(ctx, func() error {
		text, err := g.read(ctx, nil, nil, "status", "--wait="+patience(ctx).String())
		status, err = parsed(g, text, err, g.checkStatus)
		return ownWords(err)
	})
	return status, err
}

// startPauses are those between the attempts to read the status from the port of a gateway that may not
// listen there yet.
func startPauses() []time.Duration {
	return []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 0}
}

// patience is how long a gateway may wait until it answers.
func patience(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return max(time.Until(deadline)-answerMargin, time.Millisecond).Round(time.Millisecond)
	}
	return time.Minute
}

// tell runs a control command that changes the gateway and prints its status.
func (g *Conn) tell(ctx context.Context, line []byte, words ...string) (*api.Status, error) {
	return get(ctx, g, line, g.checkStatus, words...)
}

// checkStatus checks a gateway's answer. Unknown fields and states are those of a
// newer gateway, and no mistake.
func (g *Conn) checkStatus(status *api.Status) error {
	if status.State == "" {
		return errors.New("its answer is not a status")
	}
	return g.mine(status.Pod)
}

// Edges asks the gateway who it talks to.
func (g *Conn) Edges(ctx context.Context) (*api.Edges, error) {
	edges, err := get(ctx, g, nil, g.checkEdges, "edges")
	return edges, newer(err, "its gateway is too old to tell")
}

func (g *Conn) checkEdges(edges *api.Edges) error {
	if edges.Edges == nil || len(edges.Edges) > api.MaxEdges {
		return errors.New("its answer is not a list of edges")
	}
	return g.mine(edges.Pod)
}

// SetMode changes the mode of the gateway and returns its status then. With api.ExistingReset the
// gateway resets open connections that the mode forbids.
func (g *Conn) SetMode(ctx context.Context, mode api.Mode, existing api.Existing) (*api.Status, error) {
	status, err := g.tell(ctx, nil, append([]string{"mode", string(mode)}, existingWords(existing)...)...)
	if err == nil && status.Mode != mode {
		return nil, fmt.Errorf("the gateway says that its mode is %.40q", status.Mode)
	}
	return status, newer(err, noSuchChange)
}

// noSuchChange is what a gateway lacks that does not know a command, or a flag of it.
const noSuchChange = "the gateway is too old for this command or for one of its flags"

func existingWords(existing api.Existing) []string {
	if existing == api.ExistingReset {
		return []string{"--existing=reset"}
	}
	return nil
}

// SetRules changes the identity rules, as SetMode does the mode.
func (g *Conn) SetRules(ctx context.Context, rules api.Rules, existing api.Existing) (*api.Status, error) {
	status, err := g.tell(ctx, nil, slices.Concat([]string{"allow"}, rules.Words(), existingWords(existing))...)
	if err == nil && !status.Rules.Equal(rules) {
		return nil, fmt.Errorf("the gateway says that its rules are %.200q", status.Arguments())
	}
	return status, newer(err, noSuchChange)
}

// SetLog changes which connections the gateway logs and, unless limit is 0, how many bytes of log it
// writes in an hour. It returns the gateway's status then.
func (g *Conn) SetLog(ctx context.Context, log api.Log, limit int64) (*api.Status, error) {
	words := []string{"log", string(log)}
	if limit != 0 {
		words = append(words, fmt.Sprintf("--limit=%d", limit))
	}
	status, err := g.tell(ctx, nil, words...)
	if err == nil && (status.Log.Level != log || limit != 0 && status.Log.Limit != limit) {
		return nil, fmt.Errorf("the gateway says that its log is %.40q of %d bytes an hour", status.Log.Level, status.Log.Limit)
	}
	return status, newer(err, noSuchChange)
}

// SetCoverage changes the coverage, as SetMode does the mode.
func (g *Conn) SetCoverage(ctx context.Context, cover *api.Cover) (*api.Status, error) {
	line, err := jsonLine(cover)
	if err != nil {
		return nil, fmt.Errorf("writing the coverage: %w", err)
	}
	status, err := g.tell(ctx, line, "cover")
	if err == nil && status.Capture.Fingerprint != cover.Coverage.Fingerprint() {
		return nil, errors.New("the gateway says that it has another coverage")
	}
	return status, newer(err, "the gateway cannot change what it captures")
}

// Metrics asks the gateway for its metrics. Their names are names of metrics and
// labels.
func (g *Conn) Metrics(ctx context.Context) (*api.Metrics, error) {
	metrics, err := get(ctx, g, nil, checkMetrics, "metrics")
	return metrics, newer(err, "its gateway is too old to have metrics")
}

func checkMetrics(metrics *api.Metrics) error {
	if len(metrics.Families) == 0 {
		return errors.New("its answer has no metrics")
	}
	samples := 0
	for _, f := range metrics.Families {
		if !metricName.MatchString(f.Name) || f.Type != "counter" && f.Type != "gauge" {
			return fmt.Errorf("its answer has a metric of name %.100q and type %.100q", f.Name, f.Type)
		}
		for _, s := range f.Samples {
			for label := range s.Labels {
				if !metricName.MatchString(label) {
					return fmt.Errorf("its answer has a label of name %.100q", label)
				}
			}
		}
		samples += len(f.Samples)
	}
	if samples > api.MaxMetricSamples {
		return fmt.Errorf("its answer has %d samples, which is more than %d", samples, api.MaxMetricSamples)
	}
	return nil
}

// metricName matches a name that needs no quotes in Prometheus' text format. The gateway has
// no others.
var metricName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z_0-9]*$`)
