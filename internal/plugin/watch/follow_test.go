package watch

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// setVersion gives the cluster something new, which a watcher has not seen yet.
func (w *world) setVersion(version string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.version = version
}

func (w *world) surveysMade() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.surveys
}

// join adds a node, and is what every gateway has to know of.
func (w *world) join(name string) {
	w.setVersion(name)
	must.Do(w.t, w.Tracker().Create(corev1.SchemeGroupVersion.WithResource("nodes"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, ""))
}

// running returns pods whose gateways somebody else has added, with version.
func (w *world) running(n int, version string) {
	for i := range n {
		pod := with(fakecluster.NewPod(fmt.Sprintf("p-%d", i)), runs())
		w.certify(pod.Name)
		w.versions[pod.Name] = version
		w.create(pod)
	}
}

// TestRefresh: all gateways get what is new, also those that watch has not added.
func TestRefresh(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.pause = 100 * time.Millisecond
		w.setVersion("1")
		w.running(20, "1")
		w.run(Options{Parallel: 4}, func(*Watcher) {
			time.Sleep(5 * time.Second)
			if w.tried(toRefresh) != 0 {
				t.Errorf("%d refreshes of gateways that have everything", w.tried(toRefresh))
			}
			w.join("node-2")
			time.Sleep(2 * time.Second)
			if w.tried(toRefresh) != 20 || w.told(Refreshed) != 20 || w.most > 4 {
				t.Errorf("%d refreshes, %d told, %d at a time", w.tried(toRefresh), w.told(Refreshed), w.most)
			}
			for i := range 20 {
				if got := w.versions[fmt.Sprintf("p-%d", i)]; got != "node-2" {
					t.Errorf("gateway %d has %q", i, got)
				}
			}
		})
	})
}

// TestRefreshAtTheStart: a gateway lacks something when the watcher comes.
func TestRefreshAtTheStart(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.setVersion("2")
		w.running(1, "1")
		w.run(Options{}, func(*Watcher) {
			time.Sleep(time.Second)
			if w.did(toRefresh, "p-0") != 1 {
				t.Errorf("%v", w.steps)
			}
		})
		w.versions["p-0"] = "1"
		watcher := &Watcher{Client: w, Actions: w, Report: w.report}
		if failures, err := watcher.Once(t.Context()); failures != 0 || err != nil || w.did(toRefresh, "p-0") != 2 {
			t.Errorf("once: %d, %v, %v", failures, err, w.steps)
		}
	})
}

// TestBurstOfChanges makes few surveys.
func TestBurstOfChanges(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.setVersion("1")
		w.running(3, "1")
		w.run(Options{}, func(*Watcher) {
			time.Sleep(time.Minute)
			before := w.surveysMade()
			for i := range 100 {
				w.join(fmt.Sprintf("node-%d", i))
				time.Sleep(40 * time.Millisecond)
			}
			time.Sleep(refreshPause)
			if n := w.surveysMade() - before; n < 2 || n > 4 {
				t.Errorf("%d surveys for a hundred nodes in 4 s", n)
			}
			if w.versions["p-1"] != "node-99" {
				t.Errorf("in the end %q", w.versions["p-1"])
			}
		})
	})
}

// TestWhatOutdatesASurvey: each kind of object that a survey reads.
func TestWhatOutdatesASurvey(t *testing.T) {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "far", Name: "web"}}
	annotated := service.DeepCopy()
	annotated.Annotations = map[string]string{"a": "b"}
	external := service.DeepCopy()
	external.Spec.ExternalIPs = []string{"192.0.2.7"}
	balanced := external.DeepCopy()
	balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.8"}}
	ported := fakecluster.NewPod("ported")
	ported.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.setVersion("1")
		w.running(1, "1")
		w.run(Options{}, func(*Watcher) {
			time.Sleep(time.Minute)
			for _, step := range []struct {
				what   string
				gvr    schema.GroupVersionResource
				object runtime.Object
				update bool
				want   int
			}{
				{"a Service", corev1.SchemeGroupVersion.WithResource("services"), service, false, 1},
				{"its annotation", corev1.SchemeGroupVersion.WithResource("services"), annotated, true, 0},
				{"its external address", corev1.SchemeGroupVersion.WithResource("services"), external, true, 1},
				{"its load balancer", corev1.SchemeGroupVersion.WithResource("services"), balanced, true, 1},
				{"a Service range", networkingv1.SchemeGroupVersion.WithResource("servicecidrs"), &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}}, false, 1},
				{"the API server", discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), slice, false, 1},
				{"a pod", fakecluster.Pods, fakecluster.NewPod("plain"), false, 0},
				{"a host port", fakecluster.Pods, ported, false, 1},
			} {
				before := w.surveysMade()
				namespace := step.object.(metav1.Object).GetNamespace()
				if step.update {
					must.Do(t, w.Tracker().Update(step.gvr, step.object, namespace))
				} else {
					must.Do(t, w.Tracker().Create(step.gvr, step.object, namespace))
				}
				time.Sleep(2 * refreshPause)
				if got := w.surveysMade() - before; got != step.want {
					t.Errorf("%s: %d surveys, want %d", step.what, got, step.want)
				}
			}
			before := w.surveysMade()
			time.Sleep(surveyAge + refreshPause)
			if w.surveysMade() == before {
				t.Error("nothing is looked at now and then")
			}
		})
	})
}

// TestHostPortGoesUnseen: a pod with a host port is deleted while the stream of pods is broken, for
// so long that pods are listed again.
func TestHostPortGoesUnseen(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		var expired atomic.Bool
		var stream *apiwatch.RaceFreeFakeWatcher
		w.PrependWatchReactor("pods", func(a clienttesting.Action) (bool, apiwatch.Interface, error) {
			if expired.Swap(false) {
				return true, nil, apierrors.NewResourceExpired("too old")
			}
			pods, err := w.Tracker().Watch(a.GetResource(), a.GetNamespace())
			if err == nil {
				stream = pods.(*apiwatch.RaceFreeFakeWatcher)
			}
			return true, pods, err
		})
		w.setVersion("1")
		w.running(1, "1")
		ported := fakecluster.NewPod("ported")
		ported.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
		w.create(ported)
		w.run(Options{}, func(*Watcher) {
			time.Sleep(time.Minute)
			before := w.surveysMade()
			expired.Store(true)
			stream.Stop()
			must.Do(t, w.Tracker().Delete(fakecluster.Pods, ported.Namespace, ported.Name))
			// Reflectors pause for up to 30 s, with jitter.
			time.Sleep(time.Minute)
			if w.surveysMade() == before {
				t.Error("gateways go on with the host port")
			}
		})
	})
}

// TestNoGatewayNoSurvey: what changed before the first gateway is looked at when that is known.
func TestNoGatewayNoSurvey(t *testing.T) {
	inWorld(t, []runtime.Object{fakecluster.NewPod("without")}, func(t *testing.T, w *world) {
		w.run(Options{}, func(*Watcher) {
			w.join("node-2")
			time.Sleep(time.Minute)
			if n := w.surveysMade(); n != 0 {
				t.Errorf("%d surveys for nobody", n)
			}
			w.running(1, "1")
			time.Sleep(time.Minute)
			if w.did(toRefresh, "p-0") != 1 {
				t.Errorf("%v, %d surveys", w.steps, w.surveysMade())
			}
		})
	})
}

// TestRefreshThatFails is tried again, and told once. Neither does a survey that fails end all.
func TestRefreshThatFails(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.setVersion("1")
		w.running(1, "1")
		failures := 3
		w.failing(errors.New("no room"), func(step step, _ string) bool {
			if step == toRefresh {
				failures--
			}
			return step == toRefresh && failures >= 0
		})
		w.run(Options{}, func(*Watcher) {
			time.Sleep(time.Minute)
			w.mu.Lock()
			w.unread = errors.New("no answer")
			w.mu.Unlock()
			w.join("node-2")
			time.Sleep(time.Minute)
			if w.told(Noticed) != 1 || w.tried(toRefresh) != 0 {
				t.Errorf("%d notices, %d refreshes", w.told(Noticed), w.tried(toRefresh))
			}
			w.mu.Lock()
			w.unread = nil
			w.mu.Unlock()
			time.Sleep(time.Minute)
			if w.tried(toRefresh) != 4 || w.did(toRefresh, "p-0") != 1 || w.told(Failed) != 1 {
				t.Errorf("%d tries, %d refreshed, %d failures told", w.tried(toRefresh), w.did(toRefresh, "p-0"), w.told(Failed))
			}
		})
	})
}

// TestMayNotWatch: what may be listed and not watched is looked at now and then.
func TestMayNotWatch(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		for _, resource := range []string{"services", "servicecidrs", "endpointslices"} {
			w.Forbid("list", resource)
		}
		w.setVersion("1")
		w.running(1, "1")
		w.run(Options{}, func(*Watcher) {
			time.Sleep(time.Minute)
			w.setVersion("2")
			time.Sleep(surveyAge)
			if w.did(toRefresh, "p-0") != 1 || w.told(Disconnected) != 0 {
				t.Errorf("%v, %d times disconnected", w.steps, w.told(Disconnected))
			}
		})
	})
}
