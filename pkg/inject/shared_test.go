package inject

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
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

// TestSignsForThePodAsItIs: a pod of a workload that the server has just consented to has other
// addresses by the time its turn comes. No certificate is made for those that it had, whether it is read
// or watched with many others.
func TestSignsForThePodAsItIs(t *testing.T) {
	for _, n := range []int{5, 40} {
		t.Run(fmt.Sprintf("%d pods", n), func(t *testing.T) {
			c, in, pods := newCrowd(t, n)
			must.Do(t, in.Enable(t.Context(), &pods[0]).Err)
			named := certified(t, c)
			moved := move(c, "p-2")
			awaitShown(t, in, moved)
			must.Do(t, in.Enable(t.Context(), &pods[2]).Err)
			expect.Equal(t, "addresses in certificates", []string{"10.244.1.9"}, *named)
			config := must.Get(installed.ConfigOf(c.Pod("p-2"), "kube-gateway"))(t)
			expect.Equal(t, "addresses of the gateway", []netip.Addr{netip.MustParseAddr("10.244.1.9")}, config.PodIPs)

			// The pod was replaced by one of the same name.
			now := c.Pod("p-4")
			now.UID = "uid-later"
			c.Update(now)
			awaitShown(t, in, now)
			*named = nil
			if result := in.Enable(t.Context(), &pods[4]); !errors.Is(result.Err, installed.ErrReplaced) || len(*named) != 0 {
				t.Errorf("%+v, certificates for %v", result, *named)
			}
		})
	}
}

// TestWatchBehind: a watch does not show yet that a pod has other addresses. No gateway gets the certificate that was made
// for those which it had, and its Secret is gone.
func TestWatchBehind(t *testing.T) {
	c, in, pods := newCrowd(t, 40)
	var behind atomic.Bool
	c.PrependWatchReactor("pods", func(action clienttesting.Action) (bool, watch.Interface, error) {
		stream, err := c.Tracker().Watch(fakecluster.Pods, action.GetNamespace(), metav1.ListOptions{})
		if err != nil {
			return true, nil, err
		}
		return true, watch.Filter(stream, func(event watch.Event) (watch.Event, bool) {
			return event, !behind.Load()
		}), nil
	})
	must.Do(t, in.Enable(t.Context(), &pods[0]).Err)
	behind.Store(true)
	named := certified(t, c)
	move(c, "p-2")
	c.BeforePatch = func(dryRun bool) error {
		if slices.Contains(*named, "10.244.1.9") {
			behind.Store(false)
		}
		return nil
	}
	must.Do(t, in.Enable(t.Context(), &pods[2]).Err)
	expect.Equal(t, "addresses in certificates", []string{"10.244.1.7", "fd00:10:244:1::7", "10.244.1.9"}, *named)
	config := must.Get(installed.ConfigOf(c.Pod("p-2"), "kube-gateway"))(t)
	expect.Equal(t, "addresses of the gateway", []netip.Addr{netip.MustParseAddr("10.244.1.9")}, config.PodIPs)
	expect.Equal(t, "gateways of the pod", 1, len(c.Pod("p-2").Spec.EphemeralContainers))
	noSecrets(t, c)
}

// awaitShown waits until pod is shown as it is.
func awaitShown(t *testing.T, in *Injector, pod *corev1.Pod) {
	t.Helper()
	expect.Eventually(t, "the pod is shown as it is", func() bool {
		_, err := installed.Follow(t.Context(), in.Shared.pods, pod, "kube-gateway", func(now *corev1.Pod, _ installed.Gateway) (bool, error) {
			return now.Status.PodIP == pod.Status.PodIP, nil
		})
		return err == nil
	})
}

// certified returns the addresses in the certificates that come to c in Secrets from now on.
func certified(t *testing.T, c *fakecluster.Cluster) *[]string {
	var named []string
	c.PrependReactor("create", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		secret := action.(clienttesting.CreateAction).GetObject().(*corev1.Secret)
		for _, ip := range must.Get(ca.ParseCertificates(secret.Data[corev1.TLSCertKey]))(t)[0].IPAddresses {
			named = append(named, ip.String())
		}
		return false, nil, nil
	})
	return &named
}

// move gives a pod another address.
func move(c *fakecluster.Cluster, name string) *corev1.Pod {
	now := c.Pod(name)
	now.Status.PodIP, now.Status.PodIPs = "10.244.1.9", []corev1.PodIP{{IP: "10.244.1.9"}}
	c.Update(now)
	return now
}
