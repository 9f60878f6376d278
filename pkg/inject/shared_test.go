package inject

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
)

// newCrowd returns a cluster with n pods of two controllers, and the injector for them.
func newCrowd(t *testing.T, n int) (*fakecluster.Cluster, *Injector, []corev1.Pod) {
	c := fakecluster.New(t)
	var pods []corev1.Pod
	for i := range n {
		pod := fakecluster.NewPod(fmt.Sprintf("p-%d", i))
		owner := fmt.Sprintf("web-%d", i%2)
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: new(true)}}
		must.Do(t, c.Tracker().Add(pod))
		pods = append(pods, *pod)
	}
	in := newInjector(t, c)
	in.Shared = NewShared(c, installed.ManyPods(t.Context(), c, pods))
	return c, in, pods
}

// TestCrowd counts what many pods ask of the API server.
func TestCrowd(t *testing.T) {
	const n = 40
	for delivery, want := range map[Delivery]map[string]int{
		DeliverySecret: {
			"patch pods": n, "dry-run pods": 2, "create secrets": n, "delete secrets": n,
			// Whether one watch of them all is worthwhile, and what that begins with.
			"list pods": 2, "watch pods": 1, "list secrets": 1,
		},
		DeliveryCSR: {"patch pods": n, "list pods": 2, "watch pods": 1, "list secrets": 1},
	} {
		t.Run(string(delivery), func(t *testing.T) {
			// In fake time: what is listed once holds for seconds.
			synctest.Test(t, func(t *testing.T) {
				c, in, pods := newCrowd(t, n)
				in.Options.Delivery = delivery
				var dry atomic.Int32
				c.BeforePatch = func(dryRun bool) error {
					if dryRun {
						dry.Add(1)
					}
					return nil
				}
				if delivery == DeliveryCSR {
					in.Gateways = gateways(readyWith(in.Authority))
				}
				for _, err := range parallel.Each(8, pods, func(pod *corev1.Pod) error { return in.Enable(t.Context(), pod).Err }, nil) {
					if err != nil {
						t.Error(err)
					}
				}
				got := map[string]int{"dry-run pods": int(dry.Load())}
				for _, action := range c.Actions() {
					got[action.GetVerb()+" "+action.GetResource().Resource]++
				}
				if got["patch pods"] -= int(dry.Load()); dry.Load() == 0 {
					delete(got, "dry-run pods")
				}
				expect.Equal(t, "requests", want, got)
				noSecrets(t, c)
			})
		})
	}
}

// TestRefusedCrowd: nothing is made for any pod of a workload that the server refuses, and each
// pod has an error of its own.
func TestRefusedCrowd(t *testing.T) {
	c, in, pods := newCrowd(t, 6)
	var asked atomic.Int32
	c.BeforePatch = func(dryRun bool) error {
		if !dryRun {
			t.Error("a patch was sent for real")
		}
		return fmt.Errorf("refused %d", asked.Add(1))
	}
	errs := map[string]bool{}
	for _, err := range parallel.Each(3, pods, func(pod *corev1.Pod) error { return in.Enable(t.Context(), pod).Err }, nil) {
		errs[err.Error()] = true
	}
	if len(errs) != len(pods) || c.Did("create", "secrets") {
		t.Errorf("%v, %v", errs, c.Actions())
	}
}

// TestRefusedAfterItsWorkload: a pod that alone is refused leaves no Secret.
func TestRefusedAfterItsWorkload(t *testing.T) {
	c, in, pods := newCrowd(t, 3)
	must.Do(t, in.Enable(t.Context(), &pods[0]).Err)
	c.BeforePatch = func(dryRun bool) error {
		if dryRun {
			t.Error("the dry run was repeated")
		}
		return errors.New("not this one")
	}
	if result := in.Enable(t.Context(), &pods[2]); result.Err == nil || result.Action != Failed {
		t.Errorf("%+v", result)
	}
	noSecrets(t, c)
}

// TestFewPodsOfManyAreWatchedOneByOne: what a namespace has besides is not read.
func TestFewPodsOfManyAreWatchedOneByOne(t *testing.T) {
	c, in, pods := newCrowd(t, 3)
	for i := range pods {
		must.Do(t, in.Enable(t.Context(), &pods[i]).Err)
	}
	watches := 0
	for _, action := range c.Actions() {
		if action.Matches("watch", "pods") {
			watches++
		}
	}
	if watches != len(pods) {
		t.Errorf("%d watches", watches)
	}
}
