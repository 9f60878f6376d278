package watch

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// LeaseName is the Lease that replicas compete for.
const LeaseName = "kube-gateway-watch"

// The leader keeps its lease through an API server that is away for a minute, at
// the price of as long a pause when it ends without giving the lease back.
// Gateways that run do not depend on either.
const (
	leaseDuration = 90 * time.Second
	renewDeadline = 75 * time.Second
	retryPeriod   = 5 * time.Second
)

// ErrNotLeader ends a replica that has lost its lease.
var ErrNotLeader = errors.New("another replica has taken over, or the lease could not be renewed in time")

// Election says who competes for what.
type Election struct {
	Client    kubernetes.Interface
	Namespace string
	// Identity must be another one for each replica.
	Identity string
	// Elected, if not nil, is told who leads.
	Elected func(identity string)
	// Health, if not nil, reports a leader that does not renew its lease.
	Health *leaderelection.HealthzAdaptor
}

// Lead waits until this replica leads, and calls run then. It returns nil once ctx
// has ended, the error of run, or ErrNotLeader. The lease is given back only after
// run has returned, so that two never run at a time.
func (e *Election) Lead(ctx context.Context, run func(context.Context) error) error {
	election, stop := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), klog.Logger{}))
	defer stop()
	// begun is set by the first of these: this replica leads, ctx ends, or the election does.
	var begun atomic.Bool
	result := make(chan error, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: e.Namespace, Name: LeaseName},
			Client:     e.Client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.Identity},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true, Name: LeaseName, WatchDog: e.Health,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(lead context.Context) {
				if !begun.CompareAndSwap(false, true) {
					return
				}
				running, cancel := context.WithCancel(ctx)
				defer cancel()
				defer context.AfterFunc(lead, cancel)()
				result <- run(running)
				stop()
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				if e.Elected != nil {
					e.Elected(identity)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("preparing the election of a leader: %w", err)
	}
	if e.Health != nil {
		e.Health.SetLeaderElection(elector)
	}
	// One that only waits ends at once; one that leads ends its work before.
	defer context.AfterFunc(ctx, func() {
		if begun.CompareAndSwap(false, true) {
			result <- nil
			stop()
		}
	})()
	elector.Run(election)
	if begun.CompareAndSwap(false, true) {
		result <- nil
	}
	err = <-result
	if err == nil && ctx.Err() == nil {
		err = api.WithHint(ErrNotLeader, "start it again; as a Deployment it starts by itself")
	}
	return err
}
