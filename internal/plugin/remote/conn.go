package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// GatewayProgram is the gateway's program in its image.
const GatewayProgram = installed.Program

// answerLimit bounds a gateway's answer, in bytes. A real one has a few
// thousand; a gateway that somebody took over must not fill this memory.
const answerLimit = 1 << 20

// errTooLong says that a gateway's answer exceeds answerLimit.
var errTooLong = errors.New("the gateway's answer is too long")

// ErrOtherPod says that the gateway which answers does not serve the pod that is
// meant: the pod was replaced by one of the same name, or the gateway lies.
var ErrOtherPod = errors.New("it answers for another pod")

// Ref names a container.
type Ref struct{ Namespace, Pod, Container string }

// Runner runs command in a container until it ends or ctx does. Streams may be nil;
// nothing is written to stdout after Run has returned. The error is nil if the command
// ended with exit code 0. Otherwise it is *ExitError if the command ended with another
// one, and wraps ErrForbidden, ErrPodGone or ErrNotRunning if that is why it did not
// run at all.
type Runner interface {
	Run(ctx context.Context, ref Ref, stdin io.Reader, stdout io.Writer, command ...string) error
}

// Client reaches the gateways of one cluster. It is safe for concurrent use.
type Client struct {
	Kube   kubernetes.Interface
	Runner Runner
	// Ports reaches the ports where gateways answer for their status. Nil stands for commands alone.
	Ports Dialer
	// Survey says what the cluster says of addresses. Nil stands for reading that, at most every surveyAge.
	Survey func(ctx context.Context, pod *corev1.Pod) (*survey.Survey, error)
	// Backoff says how often a gateway is asked until there is an answer. The zero
	// value stands for once.
	Backoff wait.Backoff
	// Notice is for how long a container in which no command can be run may be shown as running, half of the time
	// that is left at most: a busy kubelet tells late that it has ended, and runtimes have different words for
	// that. The zero value stands for not waiting for it.
	Notice time.Duration

	surveyed parallel.Recent[*survey.Survey]
}

// noticeInterval is how often it is looked whether a container is still shown as running.
const noticeInterval = 500 * time.Millisecond

// surveyAge is how long a survey is used that a Client has read by itself.
const surveyAge = 15 * time.Second

// NewClient returns a Client that runs commands through the API server, and asks a
// gateway up to three times within about a second.
func NewClient(config *rest.Config, kube kubernetes.Interface) *Client {
	return &Client{
		Kube:    kube,
		Runner:  &executor{config: config, kube: kube},
		Ports:   &forwarder{config: config, kube: kube},
		Backoff: wait.Backoff{Steps: 3, Duration: 250 * time.Millisecond, Factor: 4},
		Notice:  10 * time.Second,
	}
}

// CheckAddresses returns why there is to be no certificate for the addresses that pod has now: its gateway in the container
// of that name was made for others. Where nobody has looked at them before, they are held against the rest of the
// cluster.
func (c *Client) CheckAddresses(ctx context.Context, pod *corev1.Pod, container string) error {
	if err := installed.CheckAddresses(pod, container); err != nil {
		return err
	}
	if installed.HasOwnAddresses(pod, container) {
		return nil
	}
	cluster, err := c.survey(ctx, pod)
	if err != nil {
		return fmt.Errorf("reading what the cluster says of addresses: %w", err)
	}
	return cluster.CheckClaims(ctx, c.Kube, pod)
}

func (c *Client) survey(ctx context.Context, pod *corev1.Pod) (*survey.Survey, error) {
	if c.Survey != nil {
		return c.Survey(ctx, pod)
	}
	return c.surveyed.Get(surveyAge, func() (*survey.Survey, error) { return survey.RunForStrict(ctx, c.Kube, []corev1.Pod{*pod}) })
}

// Gateway returns the gateway of pod in the container of that name.
func (c *Client) Gateway(pod *corev1.Pod, container string) *Conn {
	return &Conn{client: c, pod: pod, container: container}
}

// Conn is one gateway. Whatever it is told may be told twice: what was done already is
// done again without harm. A command that fails is repeated as the Client's Backoff
// says, unless that would lead nowhere. An answer of a gateway that serves another pod
// than this one is ErrOtherPod.
//
// Errors are those of Runner, and the gateway's own words for why it refused: after
// those nothing has changed. Answers are parsed, but their words are the gateway's:
// clean them before they reach a terminal.
type Conn struct {
	client    *Client
	pod       *corev1.Pod
	container string
}

// Ref returns the container of the gateway.
func (g *Conn) Ref() Ref { return Ref{g.pod.Namespace, g.pod.Name, g.container} }

// Run runs a command of the gateway's program once, whichever pod of that name runs it.
func (g *Conn) Run(ctx context.Context, stdin io.Reader, stdout io.Writer, words ...string) error {
	return g.client.Runner.Run(ctx, g.Ref(), stdin, stdout, slices.Insert(slices.Clone(words), 0, GatewayProgram)...)
}

// InTime calls ask with timeout, and puts the end of that time, or of ctx, into words.
// done is what may have happened by then, empty if ask only looks. ask is not to be a
// method of a Conn as a value: where a small method calls a generic function, Go 1.27.3
// loses track of what the value's wrapper has on its stack.
func InTime[T any](ctx context.Context, timeout time.Duration, done string, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := ask(ctx)
	late := errors.Is(err, context.DeadlineExceeded)
	switch {
	case late && done == "":
		err = fmt.Errorf("no answer within %v", timeout)
	case late:
		err = api.WithHint(fmt.Errorf("no answer within %v, and %s", timeout, done), "'kubectl gateway status' tells; --timeout waits longer")
	case errors.Is(err, context.Canceled) && done != "":
		err = fmt.Errorf("interrupted, and %s", done)
	}
	return answer, err
}

// retry calls once until it succeeds, or fails for good.
func (g *Conn) retry(ctx context.Context, once func() error) error {
	backoff := g.client.Backoff
	for {
		err := once()
		if err == nil || backoff.Steps <= 1 || final(err) || resend.Pause(ctx, backoff.Step()) != nil {
			return g.notice(ctx, err)
		}
	}
}

// away is in the words of the API server where it does not reach a kubelet, which then tells nothing either.
const away = "error dialing backend"

// notice returns err, or ErrNotRunning or ErrPodGone if it turns out to be that.
func (g *Conn) notice(ctx context.Context, err error) error {
	unheard, ok := errors.AsType[*UnheardError](err)
	if !ok || strings.Contains(unheard.Error(), away) || g.client.Notice == 0 {
		return err
	}
	ctx, cancel := within(ctx, g.client.Notice)
	defer cancel()
	// Not everybody who may ask gateways may watch pods.
	for resend.Pause(ctx, noticeInterval) == nil {
		pod, rereadErr := g.reread(ctx)
		if errors.Is(rereadErr, installed.ErrReplaced) {
			return fmt.Errorf("%w: %s", ErrPodGone, g.Ref().pod())
		}
		if rereadErr != nil {
			continue
		}
		if state, running := stateOf(pod, g.container); !running {
			return notRunning(g.Ref(), state)
		}
	}
	return err
}

// within returns a context that ends with ctx, and in half of the time that ctx has left or after most at the latest.
func within(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(deadline)/2)
	}
	return context.WithTimeout(ctx, most)
}

// final reports whether asking again would lead nowhere.
func final(err error) bool {
	return NotIssued(err) || slices.ContainsFunc(
		[]error{ErrForbidden, ErrPodGone, ErrNotRunning, ErrOtherPod, errTooOld},
		func(e error) bool { return errors.Is(err, e) })
}

// ask runs a control command, with one line of input if that is not nil, and parses
// what it prints. What is parsed comes with the error of a command that failed.
func ask[T any](ctx context.Context, g *Conn, line []byte, check func(*T) error, words ...string) (answer *T, err error) {
	err = g.retry(ctx, func() error {
		var stdin io.Reader
		if line != nil {
			stdin = bytes.NewReader(line)
		}
		text, err := g.read(ctx, stdin, nil, words...)
		answer, err = parsed(g, text, err, check)
		return ownWords(err)
	})
	return answer, err
}

// get is ask without an answer where there is an error.
func get[T any](ctx context.Context, g *Conn, line []byte, check func(*T) error, words ...string) (*T, error) {
	answer, err := ask(ctx, g, line, check, words...)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// read runs a control command and returns what it prints. What it had printed before
// it failed comes with the *ExitError. through, if not nil, stands between the command
// and what keeps its words.
func (g *Conn) read(ctx context.Context, stdin io.Reader, through func(io.Writer) io.Writer, words ...string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answer := &head{limit: answerLimit, full: func() { cancel(errTooLong) }}
	var stdout io.Writer = answer
	if through != nil {
		stdout = through(answer)
	}
	err := g.Run(ctx, stdin, stdout, slices.Concat([]string{"ctl"}, words, []string{"-o", "json"})...)
	if err != nil && !errors.As(err, new(*ExitError)) {
		return nil, err
	}
	// The writer may have been cut in the moment the command ended.
	if context.Cause(ctx) == errTooLong {
		return nil, g.asking(errTooLong)
	}
	return answer.data, err
}

// parsed parses what read returned.
func parsed[T any](g *Conn, text []byte, err error, check func(*T) error) (*T, error) {
	if err != nil && len(text) == 0 {
		return nil, err
	}
	answer, parseErr := parse(text, check)
	switch {
	case errors.Is(parseErr, ErrOtherPod):
		return nil, parseErr
	case parseErr != nil:
		return nil, errors.Join(err, g.asking(parseErr))
	}
	return answer, err
}

// parse reads what a gateway printed, which check must find well-formed.
func parse[T any](text []byte, check func(*T) error) (*T, error) {
	var answer T
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", &lineError{err})
	}
	if err := check(&answer); err != nil {
		return nil, err
	}
	return &answer, nil
}

func (g *Conn) asking(err error) error {
	return fmt.Errorf("asking the gateway of pod %s/%s: %w", g.pod.Namespace, g.pod.Name, err)
}

// mine is the error about an answer of a gateway that serves the pod served.
func (g *Conn) mine(served api.PodRef) error {
	if served.UID != string(g.pod.UID) {
		return ErrOtherPod
	}
	return nil
}

// reread returns the pod as it is now.
func (g *Conn) reread(ctx context.Context) (*corev1.Pod, error) {
	return installed.Reread(ctx, g.client.Kube, g.pod)
}

// errTooOld is a gateway that does not know a command, or a flag of it.
var errTooOld = errors.New("the gateway does not know the command")

// ownWords turns what the gateway's program says when it fails ("error: …", and
// perhaps "hint: …" below) into such an error.
func ownWords(err error) error {
	exit, ok := errors.AsType[*ExitError](err)
	if !ok {
		return err
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(exit.Stderr), "error: ")
	if !ok {
		return err
	}
	text, hint, _ := strings.Cut(text, "\nhint: ")
	words := errors.New(text)
	if strings.HasPrefix(text, "unknown control command") || strings.HasPrefix(text, "flag provided but not defined") {
		words = &tooOldError{words}
	}
	own := &lineError{words}
	if hint == "" {
		return own
	}
	return api.WithHint(own, oneLine(errors.New(hint)))
}

// tooOldError is errTooOld in the gateway's words.
type tooOldError struct{ error }

func (e *tooOldError) Is(target error) bool { return target == errTooOld }

// newer says what is missing if the gateway is too old for a command.
func newer(err error, what string) error {
	if errors.Is(err, errTooOld) {
		return api.WithHint(errors.New(what), "use the plugin and the gateway image of one release")
	}
	return err
}
