package inject

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

var (
	// errTimeout is the cause of a context that ended by Options.Timeout.
	errTimeout = errors.New("timeout")
	// errInterrupted stands for a context that the caller has ended.
	errInterrupted = errors.New("interrupted")
	// errAnswered is the cause of a context that ended because the gateway answered.
	errAnswered = errors.New("answered")
)

// answer is what came of waiting for a gateway.
type answer struct {
	status *api.Status
	// delivered says that the gateway got its first certificate meanwhile.
	delivered bool
	// pod is as it was last seen.
	pod *corev1.Pod
	err error
}

// born waits until the sidecar of a pod that does not run yet can be talked to, and returns the pod as it is then,
// and any other one as it is. Such a pod may never become ready before somebody gives it a certificate.
func (in *Injector) born(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	current, _ := installed.Current(pod)
	if !current.Sidecar || current.Phase != installed.Waiting || pod.Status.Phase != corev1.PodPending || in.Options.DryRun == installed.DryRunClient {
		return pod, nil
	}
	last, err := installed.Follow(ctx, in.shared().pods, pod, current.Name, func(now *corev1.Pod, gateway installed.Gateway) (bool, error) {
		pod = now
		if installed.Leaving(now) {
			return false, installed.ErrReplaced
		}
		return gateway.Phase == installed.Running && len(installed.PodIPs(now)) > 0, nil
	})
	if ctx.Err() != nil {
		err = in.unfinished(ctx, pod, last)
	}
	return pod, err
}

// wait follows pod until the gateway called name says that it is ready, or
// cannot become so. It gives a gateway without a certificate its first one. It
// fails with *installed.FailedError in the container's own words.
func (in *Injector) wait(ctx context.Context, pod *corev1.Pod, name string) answer {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var answers chan answer
	seen := pod
	last, err := installed.Follow(ctx, in.shared().pods, pod, name, func(now *corev1.Pod, gateway installed.Gateway) (bool, error) {
		seen = now
		switch {
		case installed.Leaving(now):
			return false, installed.ErrReplaced
		case gateway.Phase != installed.Running || answers != nil || installed.Cleans(now, name):
			return false, nil
		}
		if err := installed.CheckAddresses(now, name); err != nil {
			return false, err
		}
		answers = make(chan answer, 1)
		go func() {
			answers <- in.ask(ctx, pod, name)
			cancel(errAnswered)
		}()
		return false, nil
	})
	switch {
	case errors.Is(err, errAnswered):
		a := <-answers
		a.pod = seen
		return a
	case ctx.Err() != nil:
		err = in.unfinished(ctx, seen, last)
	}
	return answer{pod: seen, err: err}
}

// ask waits for a gateway whose container runs.
func (in *Injector) ask(ctx context.Context, pod *corev1.Pod, name string) answer {
	var a answer
	a.err = in.certify(ctx, pod, in.Gateways.Gateway(pod, name), &a, in.asks(pod, name))
	ending := installed.Gateway{Name: name, Phase: installed.Running}
	switch {
	case a.err == nil && a.status.State == api.Draining:
		ending.Reason = string(api.Draining)
	case a.err == nil:
		a.err = in.checkStatus(pod, name, a.status)
		return a
	case ctx.Err() == nil && !errors.Is(a.err, remote.ErrNotRunning):
		return a
	}
	// It ends, and then another one can follow: the container tells.
	<-ctx.Done()
	a.err = in.unfinished(ctx, pod, ending)
	return a
}

// asks reports whether the gateway called name was not there before, and has no certificate
// with it.
func (in *Injector) asks(pod *corev1.Pod, name string) bool {
	current, _ := installed.Current(pod)
	return in.Delivery() == DeliveryCSR && in.Options.DryRun == installed.DryRunNone && !current.Sidecar && installed.Fresh(pod, name)
}

// certify waits for the status of gateway, which gets a certificate if it has none. fresh says
// that it has none: it need not be asked first.
func (in *Injector) certify(ctx context.Context, pod *corev1.Pod, gateway *remote.Conn, a *answer, fresh bool) (err error) {
	name := gateway.Ref().Container
	if fresh {
		a.status, err = gateway.Renew(ctx, in.Authority, in.Options.TTL)
		switch {
		case err == nil && a.status.State == api.Ready:
			a.delivered = true
			return nil
		case err == nil:
			a.delivered = true
		case asksSigner(in.Authority) && remote.NotIssued(err) && ctx.Err() == nil:
			// A signer that has refused would refuse again.
			return fmt.Errorf("giving %s its certificate: %w", name, err)
		}
		// Why anything else fails, the second try tells.
	}
	for {
		if a.status, err = gateway.Await(ctx); err != nil {
			return fmt.Errorf("asking %s whether it is ready: %w", name, err)
		}
		if a.status.State != api.Uncertified || a.delivered || in.Options.DryRun != installed.DryRunNone {
			return in.revoke(ctx, gateway, a)
		}
		if _, err := gateway.Certify(ctx, in.Authority, in.Options.TTL, in.first(pod, name, a.status)); err != nil {
			return fmt.Errorf("giving %s its certificate: %w", name, err)
		}
		a.delivered = true
	}
}

// first returns what the gateway called name, which has no certificate and answered with status, is to get with
// it, nil unless it is a sidecar.
func (in *Injector) first(pod *corev1.Pod, name string, status *api.Status) *api.FirstSettings {
	if !status.Sidecar {
		return nil
	}
	seen := status.Capture.Named.Fingerprint()
	first := &api.FirstSettings{LogTotal: installed.LogTotalOf(pod, name)}
	c := declared.InForce(status)
	if in.Options.Declared != nil {
		in.Options.Declared(c)
		first.Mode, first.Rules, first.Log = c.Mode, &c.Rules, c.Log
	}
	first.Cover = api.Cover{Coverage: in.Survey.For(pod, c.Named), Named: c.Named, Seen: seen}
	return first
}

// revoke tells a gateway that has a certificate what is revoked, unless the certificate has brought that: a
// Secret does not.
func (in *Injector) revoke(ctx context.Context, gateway *remote.Conn, a *answer) error {
	revoked := in.Authority.Revocations()
	if revoked == nil || revoked.Reached(a.status.Cert.Revocations) || a.status.State == api.Uncertified || a.status.State == api.Draining ||
		in.Options.DryRun != installed.DryRunNone {
		return nil
	}
	status, err := gateway.Trust(ctx, in.Authority.Bundle(), revoked)
	if err != nil {
		return fmt.Errorf("telling %s what is revoked: %w", gateway.Ref().Container, err)
	}
	a.status = status
	return nil
}

func (in *Injector) checkStatus(pod *corev1.Pod, name string, status *api.Status) error {
	if status.State == api.Ready || status.State == api.Standby || status.State == api.Disabled || status.State == api.Uncertified && in.Options.DryRun != installed.DryRunNone {
		return nil
	}
	if status.State == api.Starting && status.Reason != "" {
		return api.WithHint(fmt.Errorf("%s cannot start yet: %s", name, installed.NameContainers(pod, installed.OneLine(status.Reason))),
			fmt.Sprintf("it starts by itself once nothing is in its way, and gives up after ten minutes; "+
				"'kubectl gateway enable pod/%s -n %s' again waits for it and adds no other container", pod.Name, pod.Namespace))
	}
	err := fmt.Errorf("%s is not ready after %s but %s", name, in.Options.Timeout, status.State)
	if status.Reason != "" {
		err = fmt.Errorf("%w: %s", err, installed.OneLine(status.Reason))
	}
	return api.WithHint(err, fmt.Sprintf("'kubectl logs %s -c %s -n %s' shows its log", pod.Name, name, pod.Namespace))
}

// unfinished says in what state a gateway was when ctx ended.
func (in *Injector) unfinished(ctx context.Context, pod *corev1.Pod, gateway installed.Gateway) error {
	if !errors.Is(context.Cause(ctx), errTimeout) {
		return errInterrupted
	}
	state := strings.ToLower(string(gateway.Phase))
	if words := reason(gateway); words != "" {
		state += " (" + words + ")"
	}
	err := fmt.Errorf("%w: container %s is not ready after %s, it is %s", errTimeout, gateway.Name, in.Options.Timeout, state)
	if ahead, ok := installed.Ahead(pod, gateway); ok {
		return api.WithHint(fmt.Errorf("%w; container %s is in its way: the kubelet starts one after another, and that one's image %s is not there yet (%s)",
			err, ahead.Name, ahead.Image, cmp.Or(reason(ahead), "being pulled")),
			fmt.Sprintf("Kubernetes cannot remove container %s: let the node pull that image, or have the pod replaced ('kubectl delete pod %s -n %s'); --timeout waits longer",
				ahead.Name, pod.Name, pod.Namespace))
	}
	return api.WithHint(err, fmt.Sprintf("'kubectl describe pod %s -n %s' shows the events of the pod; --timeout waits longer", pod.Name, pod.Namespace))
}

// reason returns the kubelet's words for the state of gateway, "" if there are none.
func reason(gateway installed.Gateway) string {
	if words := installed.OneLine(gateway.Message); words != "" && gateway.Reason != "" {
		return gateway.Reason + ": " + words
	}
	return gateway.Reason
}
