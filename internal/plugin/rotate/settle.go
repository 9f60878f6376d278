package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// maxPasses bounds how often all gateways are looked at until none needs anything
// more: each time some have been enabled meanwhile.
const maxPasses = 20

// pollInterval is how often a gateway that is on its way is looked at.
const pollInterval = 500 * time.Millisecond

// view is what one look at all gateways has found.
type view struct {
	// all are those that run and answer, open those of them that have not reached
	// the goal.
	all, open []gateway
	statuses  map[gateway]*api.Status
	blocked   []Blocked
	// foreign reports whether one of blocked has somebody else's certificate.
	foreign bool
}

// settle brings all gateways of the cluster to a goal, and returns when a look at
// all of them finds nothing left to do. Those that can be are brought there even
// if others are in the way.
func (r *AuthorityRotator) settle(ctx context.Context, goal goal, result *AuthorityResult) error {
	for range maxPasses {
		seen, err := r.inspect(ctx, goal)
		if err != nil {
			return err
		}
		result.Gateways = len(seen.all)
		if !seen.foreign {
			for _, outcome := range parallel.Each(r.parallel(), seen.open, func(g *gateway) look {
				return r.bring(ctx, *g, seen.statuses[*g], goal)
			}, nil) {
				if outcome.err != nil {
					seen.blocked = append(seen.blocked, outcome.blocked())
				}
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("rotating the authority: %w", context.Cause(ctx))
		}
		if result.Blocked = seen.blocked; len(seen.blocked) > 0 {
			return api.WithHint(&BlockedError{Gateways: seen.blocked, doing: goal.doing},
				"once they answer, or their pods are replaced, 'kubectl gateway rotate --ca' goes on")
		}
		if len(seen.open) == 0 {
			return nil
		}
	}
	return api.WithHint(fmt.Errorf("after %d looks at all gateways there are still new ones in the way of %s", maxPasses, goal.doing),
		"run 'kubectl gateway rotate --ca' again when fewer pods are being enabled")
}

// look is what came of one gateway.
type look struct {
	gateway gateway
	status  *api.Status // nil if it does not count: it has ended, or is about to
	foreign bool
	err     error
}

func (l *look) blocked() Blocked {
	return Blocked{Namespace: l.gateway.pod.Namespace, Pod: l.gateway.pod.Name, Container: l.gateway.name, Err: l.err}
}

// inspect asks all gateways of the cluster how they are.
func (r *AuthorityRotator) inspect(ctx context.Context, goal goal) (*view, error) {
	gateways, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	seen := &view{statuses: map[gateway]*api.Status{}}
	for _, l := range parallel.Each(r.parallel(), gateways, func(g *gateway) look { return r.look(ctx, *g, goal) }, nil) {
		switch {
		case l.err != nil:
			seen.blocked = append(seen.blocked, l.blocked())
			seen.foreign = seen.foreign || l.foreign
		case l.status != nil:
			seen.all = append(seen.all, l.gateway)
			seen.statuses[l.gateway] = l.status
			if !goal.reached(l.status) {
				seen.open = append(seen.open, l.gateway)
			}
		}
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("asking the gateways: %w", context.Cause(ctx))
	}
	return seen, nil
}

// list returns the gateways of all namespaces that run or are about to.
func (r *AuthorityRotator) list(ctx context.Context) ([]gateway, error) {
	var found []gateway
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return r.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, options)
	})
	err := pages.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error {
		pod := object.(*corev1.Pod)
		for _, g := range installed.Gateways(pod) {
			if alive(pod, g) {
				found = append(found, gateway{pod.DeepCopy(), g.Name})
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("looking for gateways in all namespaces: %w", err)
		if apierrors.IsForbidden(err) {
			err = api.WithHint(err, "ask for a role that may list pods, and run commands in them, in all namespaces: a gateway that is overlooked would lose its peers")
		}
		return nil, err
	}
	return found, nil
}

// alive reports whether a container is, or may yet become, a gateway that serves.
func alive(pod *corev1.Pod, g installed.Gateway) bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || installed.Cleans(pod, g.Name) {
		return false
	}
	switch g.Phase {
	case installed.Running:
		return true
	case installed.Waiting:
		// What the kubelet gives any other reason for has failed to start. Its
		// certificate is gone with the Secret.
		return slices.Contains([]string{"", "ContainerCreating", "PodInitializing"}, g.Reason)
	}
	return false
}

// look asks one gateway how it is, and waits for one that is on its way.
func (r *AuthorityRotator) look(ctx context.Context, g gateway, goal goal) look {
	result := look{gateway: g}
	ctx, cancel := context.WithTimeout(ctx, r.timeout())
	defer cancel()
	for {
		status, err := r.Gateways.Gateway(g.pod, g.name).Status(ctx)
		if err != nil && r.gone(ctx, g) {
			return result
		}
		pending := err != nil && errors.Is(err, remote.ErrNotRunning) || err == nil && (status.State == api.Uncertified || status.State == api.Starting)
		if !pending {
			if err != nil {
				result.err = unreachable(g, err)
				return result
			}
			return judge(result, status, goal)
		}
		select {
		case <-ctx.Done():
			result.err = api.WithHint(errors.New("it is being enabled, and not ready"), fmt.Sprintf("wait for that, or delete pod/%s -n %s", g.pod.Name, g.pod.Namespace))
			return result
		case <-time.After(pollInterval):
		}
	}
}

// judge decides whether what a gateway says fits into the rotation.
func judge(result look, status *api.Status, goal goal) look {
	switch {
	case status.State == api.Draining:
		return result // it makes no connections any more
	case status.Cert.Issuer != "" && !slices.Contains(goal.known, status.Cert.Issuer):
		result.foreign = true
		result.err = api.WithHint(fmt.Errorf("its certificate is of another authority (%.16s), which this rotation does not know", status.Cert.Issuer),
			fmt.Sprintf("first renew it: 'kubectl gateway rotate pod/%s -n %s'", result.gateway.pod.Name, result.gateway.pod.Namespace))
		return result
	}
	result.status = status
	return result
}

func unreachable(g gateway, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("no answer in time")
	}
	if api.Hint(err) != "" {
		return err
	}
	return api.WithHint(err, fmt.Sprintf("if its node is gone for good, delete pod/%s -n %s", g.pod.Name, g.pod.Namespace))
}

// gone reports whether a gateway that does not answer has ended.
func (r *AuthorityRotator) gone(ctx context.Context, g gateway) bool {
	// The time for the gateway may be over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	pod, err := r.Client.CoreV1().Pods(g.pod.Namespace).Get(ctx, g.pod.Name, metav1.GetOptions{})
	if err != nil {
		return apierrors.IsNotFound(err)
	}
	if pod.UID != g.pod.UID {
		return true
	}
	for _, now := range installed.Gateways(pod) {
		if now.Name == g.name {
			return !alive(pod, now)
		}
	}
	return true
}

// bring brings one gateway to the goal.
func (r *AuthorityRotator) bring(ctx context.Context, g gateway, status *api.Status, goal goal) look {
	result := look{gateway: g}
	limited, cancel := context.WithTimeout(ctx, r.timeout())
	defer cancel()
	conn := r.Gateways.Gateway(g.pod, g.name)
	if goal.issued(status) {
		status, result.err = conn.Trust(limited, goal.authority.Bundle())
	} else {
		status, result.err = conn.Renew(limited, goal.authority, r.TTL)
	}
	switch {
	case result.err != nil && r.gone(ctx, g):
		result.err = nil
	case result.err != nil:
		result.err = unreachable(g, result.err)
	case !goal.reached(status):
		result.err = errors.New("the gateway says that it did not take what it was given")
	}
	return result
}
