package inject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

const (
	// takeOverTries is how often two gateways are brought together whose conversation broke off.
	takeOverTries = 3
	// lookTimeout bounds the look at what a take-over has done that broke off.
	lookTimeout = 10 * time.Second
	// aloneTimeout is how long a gateway may take to see that the one before it has ended, which it
	// looks for every second, and aloneInterval the time between two questions whether it has.
	aloneTimeout  = 5 * time.Second
	aloneInterval = 500 * time.Millisecond
)

// Succession says what a gateway has of the one whose place it takes.
type Succession struct {
	// Change changes the settings of the gateway that runs. All others are kept as they are in
	// force, whatever Options say. Nil changes none.
	Change func(*api.Config)
	// Version is what the image is known to have. If it is not empty, a gateway with the same image
	// and another version is replaced.
	Version string
	// Redeliver has Options.Delivery decide how the new gateway gets its key. Otherwise it gets it
	// as the old one did.
	Redeliver bool
	// Force replaces a gateway also if nothing would change.
	Force bool
	// DrainTimeout is how long connections of the gateway that is replaced may go on before they
	// are reset.
	DrainTimeout time.Duration
}

var (
	// ErrNotReady says that the gateway that runs is in no state to be replaced.
	ErrNotReady = errors.New("the gateway cannot be replaced")
	// ErrOtherTrustDomain says that the authority is of another trust domain than the gateway.
	ErrOtherTrustDomain = errors.New("the gateway is of another trust domain than the authority")
)

// Replace puts a new gateway in the place of the one that runs in pod, with Options.Image and the
// settings that Options.Succession says, and returns when that serves. The old one serves until
// then, also after an error, and drains its connections by itself behind it. Nothing is done if
// nothing would change. An earlier Replace that broke off is continued. A pod in which no gateway
// runs is an error.
func (in *Injector) Replace(ctx context.Context, pod *corev1.Pod) Result {
	return in.rounds(ctx, pod, in.replaceRound)
}

// EnableOrReplace is Replace for a pod in which a gateway runs, and Enable for all others.
func (in *Injector) EnableOrReplace(ctx context.Context, pod *corev1.Pod) Result {
	return in.rounds(ctx, pod, func(ctx context.Context, pod *corev1.Pod) Result {
		gateway, ok := in.Gateways.Serving(ctx, pod)
		if !ok || gateway.Phase != installed.Running || installed.Cleans(pod, gateway.Name) {
			return in.round(ctx, pod)
		}
		status, err := in.Gateways.Gateway(pod, gateway.Name).Status(ctx)
		if err == nil && (status.State == api.Uncertified || status.State == api.Draining || status.State == api.Standby) {
			// It has never served, or is about to end.
			return in.round(ctx, pod)
		}
		return in.replaceRound(ctx, pod)
	})
}

// replaceRound is one attempt on the state of pod that is given.
func (in *Injector) replaceRound(ctx context.Context, pod *corev1.Pod) Result {
	result := Result{Pod: pod, Action: Unchanged}
	serving, err := in.Gateways.Running(ctx, pod)
	result.Container = serving.Name
	if err == nil {
		err = in.Gateways.CheckAddresses(ctx, pod, serving.Name)
	}
	if err != nil {
		result.Err = err
		return result
	}
	s := &succession{Injector: *in, pod: pod, old: serving}
	if !s.Options.Succession.Redeliver {
		s.Options.Delivery = DeliveryCSR
		if installed.ReadsSecret(pod, serving.Name) {
			s.Options.Delivery = DeliverySecret
		}
	}
	if result.Err = s.look(ctx); result.Err != nil {
		return result
	}
	result.Was, result.Status = s.status, s.status
	if s.unchanged() {
		result.Warnings = manyContainers(pod, serving.Name)
		return result
	}
	result.Action, result.Predecessor, result.Container = Replaced, serving.Name, ""
	if in.Options.DryRun != installed.DryRunNone {
		result.Container = installed.NextName(pod)
		s.add(ctx, pod, &result, s.wanted)
		return result
	}
	s.succeed(ctx, &result)
	if result.Err != nil && !errors.Is(result.Err, installed.ErrOvertaken) && !errors.Is(result.Err, errUnknown) {
		result.Err = fmt.Errorf("%w; %s serves as before", result.Err, serving.Name)
		if api.Hint(result.Err) == "" {
			result.Err = api.WithHint(result.Err, "the same command again goes on where this one stopped")
		}
	}
	return result
}

// succession is one gateway that is to take the place of another one in a pod.
type succession struct {
	Injector
	pod *corev1.Pod
	old installed.Gateway
	// status is what old said last, config what it was given, and wanted what the new one is.
	status         *api.Status
	config, wanted *api.Config
}

// look asks the old gateway how it is, and makes the new one's configuration of that.
func (s *succession) look(ctx context.Context) (err error) {
	if s.config, err = installed.ConfigOf(s.pod, s.old.Name); err != nil {
		return err
	}
	if s.status, err = s.Gateways.Gateway(s.pod, s.old.Name).Status(ctx); err != nil {
		return s.Gateways.Ended(ctx, s.pod, fmt.Errorf("asking %s for its settings: %w", s.old.Name, err))
	}
	which := fmt.Sprintf("pod/%s -n %s", s.pod.Name, s.pod.Namespace)
	switch s.status.State {
	case api.Ready, api.Degraded:
	case api.Draining:
		return api.WithHint(fmt.Errorf("%w: it is being disabled", ErrNotReady), fmt.Sprintf("'kubectl gateway enable %s' adds one once it has ended", which))
	default:
		return api.WithHint(fmt.Errorf("%w: it is %.40q", ErrNotReady, s.status.State), fmt.Sprintf("'kubectl gateway enable %s' makes it ready, or adds another one", which))
	}
	if own := s.Authority.TrustDomain(); own != s.config.TrustDomain && s.Options.Succession.Change == nil {
		return api.WithHint(fmt.Errorf("%w: %s, and not %s", ErrOtherTrustDomain, s.config.TrustDomain, own), "use the authority that it was enabled with; --authority-dir names its directory")
	}
	s.wanted = s.configAfter()
	return nil
}

// kept returns the settings that are in force at the old gateway.
func (s *succession) kept() *api.Config {
	c := *s.config
	c.Mode, c.Rules = s.status.Mode, s.status.Rules
	if s.status.Capture.Fingerprint != "" {
		c.Named = s.status.Capture.Named
	}
	if l := s.status.Log; l.Level != "" {
		c.Log, c.LogLimit = l.Level, l.Limit
	}
	return &c
}

// configAfter returns the configuration of the new gateway.
func (s *succession) configAfter() *api.Config {
	c := s.kept()
	in := s.Injector
	if in.Survey == nil {
		in.Survey = &survey.Survey{}
	}
	base := in.configFor(s.pod)
	c.Version, c.Pod, c.PodIPs, c.TrustDomain = base.Version, base.Pod, base.PodIPs, base.TrustDomain
	c.LogTotal = base.LogTotal
	c.Replaces, c.Sidecar = s.old.Name, false
	if s.Options.Succession.Change != nil {
		s.Options.Succession.Change(c)
	}
	if c.Existing == api.ExistingReset {
		// Connections of the old gateway go on beside the new one.
		c.Existing = api.ExistingReport
	}
	have := s.config.Coverage
	if f := s.status.Capture.Fingerprint; f != "" && f != have.Fingerprint() {
		have = s.status.Capture.Coverage
	}
	c.Coverage = have
	if s.Survey != nil {
		c.Coverage = s.Survey.Again(s.pod, c.Named, have)
	}
	return c
}

// unchanged reports whether the old gateway is as the new one would be, as far as that cannot be
// changed in place.
func (s *succession) unchanged() bool {
	o := s.Options.Succession
	return !o.Force && s.old.Image == s.Options.Image && (o.Version == "" || s.status.Version == o.Version) && sameSettings(s.kept(), s.wanted)
}

// sameSettings reports whether two gateways of a pod differ in nothing that somebody has set.
func sameSettings(a, b *api.Config) bool {
	text := func(c *api.Config) string {
		own := *c
		own.Coverage, own.Named, own.Replaces, own.Number, own.PodIPs, own.LogTotal = api.Coverage{}, api.Coverage{}, "", 0, nil, 0
		own.Pod.Node, own.Wire, own.Existing, own.Sidecar = "", c.Wire.OrDefault(), "", false
		// The order of their fields is that of the type.
		text, _ := json.Marshal(own)
		return string(text) + c.Named.Fingerprint()
	}
	return text(a) == text(b)
}

// succeed brings a new gateway to the place of the old one.
func (s *succession) succeed(ctx context.Context, result *Result) {
	old := s.Gateways.Gateway(s.pod, s.old.Name)
	next, err := s.pending(ctx)
	if err != nil {
		result.Err = err
		return
	}
	var seen *corev1.Pod
	secret := ""
	if next == "" {
		// A gateway that cannot hand over costs no container. The offer ends by itself.
		if _, result.Err = old.HandOver(ctx, s.Options.Succession.DrainTimeout); result.Err != nil {
			return
		}
		result.Container = installed.NextName(s.pod)
		seen, secret = s.add(ctx, s.pod, result, s.wanted)
	} else {
		result.Container = next
		reply := s.wait(ctx, s.pod, next)
		seen, result.Status, result.Err = reply.pod, reply.status, reply.err
	}
	if result.Err != nil {
		return
	}
	if result.Status.State == api.Standby {
		result.Status, result.Err = s.takeOver(ctx, result.Container)
	}
	if result.Err != nil {
		return
	}
	if s.Options.Existing == api.ExistingReset {
		result.Err = s.existing(ctx, result, false)
	}
	result.Warnings = slices.Concat(result.Warnings, s.successionRemarks(result.Status), manyContainers(s.pod, result.Container))
	s.tidy(ctx, result, seen, secret)
}

// pending returns the container of a gateway that is on its way to the old one's place and is as
// wanted, "" if there is none. It ends one that is not, and waits for the end of gateways from
// before: no more than two are in a pod at a time.
func (s *succession) pending(ctx context.Context) (string, error) {
	next := ""
	for _, gateway := range installed.Gateways(s.pod) {
		if gateway.Phase != installed.Running || gateway.Name == s.old.Name {
			continue
		}
		if before, ok := installed.Predecessor(s.pod, gateway); !ok || before.Name != s.old.Name {
			if err := s.awaitEnd(ctx, gateway.Name); err != nil {
				return "", err
			}
			continue
		}
		if next == "" && s.fits(gateway) {
			next = gateway.Name
			continue
		}
		if err := s.endStandby(ctx, s.pod, gateway.Name); err != nil {
			return "", err
		}
	}
	if starting, ok := installed.Starting(s.pod, s.old.Name); next == "" && ok && s.fits(starting) {
		next = starting.Name
	}
	return next, nil
}

// fits reports whether gateway is as the new one is to be.
func (s *succession) fits(gateway installed.Gateway) bool {
	config, err := installed.ConfigOf(s.pod, gateway.Name)
	return err == nil && gateway.Image == s.Options.Image && sameSettings(config, s.wanted)
}

// awaitEnd waits for the end of the gateway called name, which drains.
func (s *succession) awaitEnd(ctx context.Context, name string) error {
	_, err := installed.WaitUntil(ctx, s.shared().pods, s.pod, name, func(g installed.Gateway) bool { return g.Phase == installed.Terminated })
	switch {
	case err == nil, errors.As(err, new(*installed.FailedError)):
		return nil
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), errTimeout):
		return api.WithHint(fmt.Errorf("%w: %s, from before %s, still drains its connections after %s", errTimeout, name, s.old.Name, s.Options.Timeout),
			"try again when they have ended; --timeout waits longer")
	}
	return err
}

// endStandby ends the gateway called name, which does not serve. The error is ErrOvertaken
// when it has ended.
func (in *Injector) endStandby(ctx context.Context, pod *corev1.Pod, name string) error {
	if _, err := in.Gateways.Gateway(pod, name).Disable(ctx, 0); err != nil && !errors.Is(err, remote.ErrNotRunning) {
		return fmt.Errorf("ending %s, which does not serve: %w", name, err)
	}
	_, err := installed.WaitUntil(ctx, in.shared().pods, pod, name, func(g installed.Gateway) bool { return g.Phase == installed.Terminated })
	if err != nil && !errors.As(err, new(*installed.FailedError)) {
		return err
	}
	return installed.ErrOvertaken
}

// alone waits for the gateway called name, which was to take the place of one that has ended: it
// serves by itself then. One that does not is ended, and the error is ErrOvertaken.
func (in *Injector) alone(ctx context.Context, pod *corev1.Pod, name string) (*api.Status, error) {
	deadline := time.After(aloneTimeout)
	for {
		status, err := in.Gateways.Gateway(pod, name).Await(ctx)
		if err != nil || status.State != api.Standby {
			return status, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-deadline:
			return nil, in.endStandby(ctx, pod, name)
		case <-time.After(aloneInterval):
		}
	}
}

// errUnknown says that it is not known which of two gateways serves.
var errUnknown = errors.New("which gateway serves is not known")

// takeOver has the gateway called name, which stands by, take the old one's place. Settings that
// changed meanwhile are those of the next attempt: ErrOvertaken.
func (s *succession) takeOver(ctx context.Context, name string) (*api.Status, error) {
	given := s.wanted
	old, successor := s.Gateways.Gateway(s.pod, s.old.Name), s.Gateways.Gateway(s.pod, name)
	var err error
	for range takeOverTries {
		if err = s.look(ctx); err != nil {
			return nil, err
		}
		if !sameSettings(given, s.wanted) {
			return nil, s.endStandby(ctx, s.pod, name)
		}
		var offer *api.Handover
		if offer, err = old.HandOver(ctx, s.Options.Succession.DrainTimeout); err != nil {
			return nil, fmt.Errorf("telling %s to hand over to %s: %w", s.old.Name, name, err)
		}
		var status *api.Status
		if status, err = successor.TakeOver(ctx, offer); err == nil {
			return status, nil
		}
		// The command may have broken off behind the change.
		status, lost := s.lookAgain(ctx, successor)
		switch {
		case lost == nil && (status.State == api.Ready || status.State == api.Degraded):
			return status, nil
		case lost == nil && status.State == api.Standby && ctx.Err() == nil:
		case lost == nil && status.State == api.Standby, errors.Is(lost, remote.ErrNotRunning), errors.Is(lost, remote.ErrPodGone):
			return nil, fmt.Errorf("%s did not take over from %s: %w", name, s.old.Name, err)
		default:
			return nil, api.WithHint(fmt.Errorf("%w: %s was told to take over from %s: %w", errUnknown, name, s.old.Name, err),
				"'kubectl gateway status' tells; the same command again goes on where this one stopped")
		}
	}
	return nil, fmt.Errorf("%s did not take over from %s: %w", name, s.old.Name, err)
}

// lookAgain asks a gateway for its status, also when ctx has ended, and waits for one that is
// taking over.
func (s *succession) lookAgain(ctx context.Context, gateway *remote.Conn) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	return gateway.Await(ctx)
}

// successionRemarks returns what the user should know about a gateway that took over.
func (s *succession) successionRemarks(status *api.Status) []string {
	list := append(s.certificateRemarks(s.pod, status), clockRemarks(s.pod, status, time.Now())...)
	if status.Mode != api.Strict || s.status.Mode == api.Strict {
		return list
	}
	if s.Survey != nil {
		list = append(list, s.strictRemarks(s.pod, status.Mode, status.Capture.Named)...)
	}
	if status.OnFailure == api.FailOpen {
		list = append(list, "on-failure stays open: without its gateway the pod would connect in plaintext; --on-failure=closed changes that")
	}
	return list
}

// manyContainers warns about a pod that has had many gateways, of which the last is called name.
func manyContainers(pod *corev1.Pod, name string) []string {
	all := installed.Gateways(pod)
	n := len(all)
	if !slices.ContainsFunc(all, func(g installed.Gateway) bool { return g.Name == name }) {
		n++
	}
	if n < installed.ManyContainers {
		return nil
	}
	return []string{fmt.Sprintf("the pod has had %d gateways, whose containers Kubernetes cannot remove: replace the pod when that is convenient ('kubectl rollout restart')", n)}
}
