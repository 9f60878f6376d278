package tail

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Formatter makes the output line of a log line, see Text, JSON and Template. An error
// ends the Tailer.
type Formatter interface {
	Format(source Source, line []byte) ([]byte, error)
}

// Options choose the lines that are read.
type Options struct {
	// Follow waits for new lines.
	Follow bool
	// Since skips lines that are older, none if 0.
	Since time.Duration
	// Lines is how many lines of each log are read at first, all if negative.
	Lines int64
	// Filter chooses among the lines.
	Filter Filter
	// Parallel bounds how many logs are read at a time. With Follow it must be at least
	// the number of pods.
	Parallel int
}

// Tailer prints the lines of many gateways' logs.
type Tailer struct {
	Kube      kubernetes.Interface
	Formatter Formatter
	Options   Options
	// Join chooses further pods to follow once they get a gateway, with Follow. Nil
	// follows only those that have one at the start.
	Join *Join
	// Out gets the lines, each in one write, ErrOut the reports on the streams.
	Out, ErrOut io.Writer
	// Explain returns the text of an error and a hint, "" if there is none. Nil means
	// the error's own text and hint.
	Explain func(error) (text, hint string)
	// Retry is the pause before a broken stream is reopened. Its steps are how often in
	// a row that may fail. See DefaultRetry.
	Retry wait.Backoff
	// Idle is how long a stream may be silent before it is opened anew: kubelets may go on
	// following a file that they have rotated away. 0 means forever. See DefaultIdle.
	Idle time.Duration

	mu sync.Mutex
}

// DefaultRetry gives up after about a minute.
func DefaultRetry() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.1, Steps: 7, Cap: 15 * time.Second}
}

// DefaultIdle is short enough to notice, and costs a request for each silent log.
const DefaultIdle = time.Minute

// ErrIncomplete says that the log of at least one gateway could not be read to its end.
// ErrOut has the details.
var ErrIncomplete = errors.New("not all logs could be read")

// errOutput wraps errors of Out.
var errOutput = errors.New("writing the output")

// Run prints the logs of the newest gateways of pods until all have ended or ctx is
// done, which is not an error. With Join it ends with ctx alone, or when the cluster
// refuses the watch for new pods.
func (t *Tailer) Run(ctx context.Context, pods []corev1.Pod) error {
	if t.Options.Follow && len(pods) > t.Options.Parallel {
		return api.WithHint(fmt.Errorf("%d logs are to be followed, but at most %d at a time", len(pods), t.Options.Parallel),
			"select fewer pods, or raise --max-log-requests")
	}
	group, ctx := errgroup.WithContext(ctx)
	var incomplete atomic.Bool
	if t.Options.Follow && t.Join != nil {
		c := &crowd{t: t, group: group, incomplete: &incomplete, members: map[types.UID]*member{}}
		c.run(ctx, pods)
	} else {
		group.SetLimit(t.Options.Parallel)
		for i := range pods {
			group.Go(func() error { return t.one(ctx, &pods[i], &incomplete) })
		}
	}
	switch err := group.Wait(); {
	case err != nil:
		return err
	case incomplete.Load():
		return ErrIncomplete
	}
	return nil
}

// one prints the log of one pod's newest gateway.
func (t *Tailer) one(ctx context.Context, pod *corev1.Pod, incomplete *atomic.Bool) error {
	gateway, ok := installed.Current(pod)
	if !ok {
		incomplete.Store(true)
		t.report(pod, failure, "the pod has no gateway", enableHint(pod))
		return nil
	}
	return t.conclude(ctx, pod, t.follow(ctx, pod, &cursor{container: gateway.Name, started: gateway.StartedAt, fromStart: t.Options.whole()}), incomplete)
}

// conclude reports the error of one pod, and returns it if it concerns the others, too.
func (t *Tailer) conclude(ctx context.Context, pod *corev1.Pod, err error, incomplete *atomic.Bool) error {
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case errors.Is(err, errOutput):
		// There is no reader: end the others, too.
		return err
	}
	text, hint := t.explain(err)
	t.report(pod, failure, text, cmp.Or(hint, fmt.Sprintf("'kubectl gateway check pod/%s -n %s' looks for what is wrong", pod.Name, pod.Namespace)))
	incomplete.Store(true)
	return nil
}

func enableHint(pod *corev1.Pod) string {
	return fmt.Sprintf("'kubectl gateway enable pod/%s -n %s' adds one", pod.Name, pod.Namespace)
}

// print writes one line. Lines of different pods never mix.
func (t *Tailer) print(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.Out.Write(line); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

// The kinds of lines on ErrOut.
const (
	event   = ""
	warning = "warning: "
	failure = "error: "
)

// report prints on ErrOut what happened to a pod's stream.
func (t *Tailer) report(pod *corev1.Pod, kind, text, hint string) {
	t.say(fmt.Sprintf("pod/%s -n %s: %s%s", pod.Name, pod.Namespace, kind, text), hint)
}

func (t *Tailer) explain(err error) (text, hint string) {
	if t.Explain == nil {
		return err.Error(), api.Hint(err)
	}
	return t.Explain(err)
}

// say prints text, and a hint if it is not empty, on ErrOut.
func (t *Tailer) say(text, hint string) {
	lines := terminal.Clean(text) + "\n"
	if hint != "" {
		lines += "hint: " + terminal.Clean(hint) + "\n"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _ = io.WriteString(t.ErrOut, lines)
}
