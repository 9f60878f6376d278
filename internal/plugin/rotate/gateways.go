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

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
)

// maxPasses bounds how often all gateways are asked until none needs anything more:
// each time some may have been enabled meanwhile.
const maxPasses = 20

// pollInterval is how often a gateway that is being enabled is asked.
const pollInterval = 500 * time.Millisecond

// gateway is one gateway of the cluster, with what it said last.
type gateway struct {
	*remote.Conn
	pod *corev1.Pod
	// status is nil if the gateway does not count: it has ended, or is about to.
	status *api.Status
	// foreign reports whether err is about somebody else's certificate.
	foreign bool
	// err is why the gateway is in the way.
	err error
}

// Blocked is a gateway that keeps a rotation from going on.
type Blocked struct {
	Pod       *corev1.Pod
	Container string
	// Err is why. Its words may be the gateway's: clean them before they reach a
	// terminal.
	Err error
}

// BlockedError stops a rotation where going on would cut connections.
type BlockedError struct {
	Gateways []Blocked
	// doing is what is not done.
	doing string
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("%s in the way of %s", count(len(e.Gateways), "is", "are"), e.doing)
}

// view is what asking all gateways has found.
type view struct {
	// count is how many run and answer. open are those of them that have not reached
	// the goal.
	count   int
	open    []gateway
	blocked []Blocked
	// foreign reports whether one of blocked has somebody else's certificate.
	foreign bool
}

func (v *view) block(g *gateway) {
	v.blocked = append(v.blocked, Blocked{Pod: g.pod, Container: g.Ref().Container, Err: g.err})
	v.foreign = v.foreign || g.foreign
}

// reach brings all gateways of the cluster to a goal, also if others are in the way.
// It returns when all have reached it, or all that can where goal overlooks the others.
func (r *AuthorityRotator) reach(ctx context.Context, goal goal, result *AuthorityResult) error {
	for range maxPasses {
		seen, err := r.inspect(ctx, goal)
		if err != nil {
			return err
		}
		result.Gateways = seen.count
		failed := 0
		if !seen.foreign {
			for _, g := range parallel.Each(r.parallel(), seen.open, func(g *gateway) gateway { return r.bring(ctx, *g, goal) }, nil) {
				if g.err != nil {
					seen.block(&g)
					failed++
				}
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("rotating the authority: %w", context.Cause(ctx))
		}
		result.Blocked = seen.blocked
		switch {
		case goal.overlook && failed == len(seen.open):
			return nil
		case goal.overlook:
			continue
		case len(seen.blocked) > 0:
			return api.WithHint(&BlockedError{Gateways: seen.blocked, doing: goal.doing},
				"once they answer, or their pods are replaced, 'kubectl gateway rotate --ca' goes on")
		case len(seen.open) == 0:
			return nil
		}
	}
	return api.WithHint(fmt.Errorf("after %d looks at all gateways there are still new ones in the way of %s", maxPasses, goal.doing),
		"run 'kubectl gateway rotate --ca' again when fewer pods are being enabled")
}

// inspect asks all gateways of the cluster for their status.
func (r *AuthorityRotator) inspect(ctx context.Context, goal goal) (*view, error) {
	gateways, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	seen := &view{}
	for _, g := range parallel.Each(r.parallel(), gateways, func(g *gateway) gateway { return r.ask(ctx, *g, goal) }, nil) {
		switch {
		case g.err != nil:
			seen.block(&g)
		case g.status != nil:
			seen.count++
			if !goal.reached(g.status) {
				seen.open = append(seen.open, g)
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
	err := pages.Each(ctx, metav1.ListOptions{}, r.Client.CoreV1().Pods(metav1.NamespaceAll).List, func(pod *corev1.Pod) {
		for _, g := range installed.Gateways(pod) {
			if alive(pod, g) {
				pod := pod.DeepCopy()
				found = append(found, gateway{Conn: r.Gateways.Gateway(pod, g.Name), pod: pod})
			}
		}
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
	if installed.Finished(pod) || installed.Cleans(pod, g.Name) {
		return false
	}
	switch g.Phase {
	case installed.Running:
		return true
	case installed.Waiting:
		// With any other reason of the kubelet's it has failed to start. Its
		// certificate is gone with the Secret.
		return slices.Contains([]string{"", "ContainerCreating", "PodInitializing"}, g.Reason)
	}
	return false
}

// ask asks one gateway for its status, and waits for one that is being enabled.
func (r *AuthorityRotator) ask(ctx context.Context, g gateway, goal goal) gateway {
	ctx, cancel := context.WithTimeout(ctx, r.timeout())
	defer cancel()
	for waited := false; ; waited = true {
		status, err := g.Status(ctx)
		switch {
		case waited && ctx.Err() != nil: // what was answered before says more
		case err != nil:
			waits, reason := r.failed(ctx, &g, err)
			if !waits {
				g.err = reason
				return g
			}
		case err == nil && status.State != api.Uncertified && status.State != api.Starting:
			g.judge(status, goal)
			return g
		}
		select {
		case <-ctx.Done():
			g.err = api.WithHint(errors.New("it is being enabled, and not ready"), "wait for that, or delete "+g.where())
			return g
		case <-time.After(pollInterval):
		}
	}
}

// judge decides whether a status fits into the rotation.
func (g *gateway) judge(status *api.Status, goal goal) {
	switch issuer := status.Cert.Issuer; {
	case status.State == api.Draining: // it makes no connections any more
	case issuer != "" && goal.known != nil && !slices.Contains(goal.known, issuer):
		g.foreign = true
		g.err = api.WithHint(fmt.Errorf("its certificate is of another authority (%.16s), which this rotation does not know", issuer),
			fmt.Sprintf("first renew it: 'kubectl gateway rotate %s'", g.where()))
	default:
		g.status = status
	}
}

// where names the pod as kubectl takes it.
func (g *gateway) where() string { return fmt.Sprintf("pod/%s -n %s", g.pod.Name, g.pod.Namespace) }

func (g *gateway) unreachable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("no answer in time")
	}
	if api.Hint(err) != "" {
		return err
	}
	return api.WithHint(err, "if its node is gone for good, delete "+g.where())
}

// failed returns why a gateway that failed with err is in the way, nil if it has ended. The containers of a pod that
// ends are gone before the API server says so: of such a pod the end is waited for, until ctx ends. waits reports
// whether the gateway may yet begin to run.
func (r *AuthorityRotator) failed(ctx context.Context, g *gateway, err error) (waits bool, reason error) {
	for said := false; ; said = true {
		pod, alive := r.look(ctx, g)
		switch {
		case !alive:
			return false, nil
		case pod == nil || !installed.Leaving(pod):
			return errors.Is(err, remote.ErrNotRunning), g.unreachable(err)
		case !said:
			r.say("waiting for the end of %s", g.where())
		}
		if resend.Pause(ctx, pollInterval) != nil {
			return false, api.WithHint(fmt.Errorf("its pod is being deleted, and has not ended: %w", err),
				fmt.Sprintf("if its node is gone for good: 'kubectl delete --force pod/%s -n %s'", g.pod.Name, g.pod.Namespace))
		}
	}
}

// look returns the pod of a gateway as it is now, nil if that is not known, and whether the gateway may still be alive.
func (r *AuthorityRotator) look(ctx context.Context, g *gateway) (now *corev1.Pod, may bool) {
	// The gateway may have used up its time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	now, err := installed.Reread(ctx, r.Client, g.pod)
	if err != nil {
		return nil, !errors.Is(err, installed.ErrReplaced)
	}
	return now, slices.ContainsFunc(installed.Gateways(now), func(found installed.Gateway) bool {
		return found.Name == g.Ref().Container && alive(now, found)
	})
}

// bring brings one gateway to the goal.
func (r *AuthorityRotator) bring(ctx context.Context, g gateway, goal goal) gateway {
	limited, cancel := context.WithTimeout(ctx, r.timeout())
	defer cancel()
	issuer := goal.authority
	if !goal.alone {
		issuer = issuer.Keeping(g.status.Cert.Authorities)
	}
	var status *api.Status
	var err error
	if goal.issued(g.status) {
		status, err = g.Trust(limited, issuer.Bundle(), issuer.Revocations())
	} else {
		if status, err = g.Renew(limited, issuer, r.TTL); err == nil && r.Renewed != nil {
			r.Renewed(ctx, g.pod, status)
		}
	}
	switch {
	case err != nil:
		_, g.err = r.failed(limited, &g, err)
	case !goal.reached(status):
		g.err = errors.New("the gateway says that it did not take what it was given")
	}
	return g
}
