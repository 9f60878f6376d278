package watch

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// oldPods returns n pods of each workload, whose gateways have another image than watch.
func oldPods(n int, workloads ...string) []runtime.Object {
	objects := []runtime.Object{annotatedNamespace()}
	for _, workload := range workloads {
		for i := range n {
			pod := with(fakecluster.NewPod(fmt.Sprintf("%s-%d", workload, i)), runs().byWatch())
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: workload, UID: types.UID(workload), Controller: new(true)}}
			pod.Spec.EphemeralContainers[0].Image = "gateway:v0"
			objects = append(objects, pod)
		}
	}
	return objects
}

// inRollout is inWorld with gateways that are outdated.
func inRollout(t *testing.T, objects []runtime.Object, test func(*testing.T, *world)) {
	inWorld(t, objects, func(t *testing.T, w *world) {
		w.upgrades, w.pause = true, time.Second
		for _, object := range objects {
			if pod, ok := object.(*corev1.Pod); ok {
				w.certify(pod.Name)
			}
		}
		test(t, w)
	})
}

// TestRollout upgrades all, a few at a time and one pod of a workload.
func TestRollout(t *testing.T) {
	inRollout(t, oldPods(3, "a", "b", "c", "d", "e", "f"), func(t *testing.T, w *world) {
		w.run(Options{Parallel: 20}, func(watcher *Watcher) {
			time.Sleep(2 * time.Minute)
			if n := w.told(Upgraded); n != 18 || w.tried(toUpgrade) != 18 {
				t.Errorf("%d were upgraded in %d tries", n, w.tried(toUpgrade))
			}
			if counts := watcher.Counts(); counts.Ready != 18 || counts.Outdated != 0 || counts.Halted != nil {
				t.Errorf("%+v", counts)
			}
		})
		if w.mostUpgrades != maxUpgrades {
			t.Errorf("%d at a time", w.mostUpgrades)
		}
	})
}

// TestRolloutHalts once one has failed, until an annotation changes or watch is started again.
func TestRolloutHalts(t *testing.T) {
	broken := true
	inRollout(t, oldPods(5, "a"), func(t *testing.T, w *world) {
		w.failing(errors.New("no such image"), func(step step, _ string) bool { return step == toUpgrade && broken })
		w.run(Options{}, func(watcher *Watcher) {
			time.Sleep(time.Hour)
			if w.tried(toUpgrade) != 1 || w.told(Halted) != 1 || w.told(Failed) != 1 {
				t.Errorf("%d tries, halted %d times, %d failures told", w.tried(toUpgrade), w.told(Halted), w.told(Failed))
			}
			counts := watcher.Counts()
			if counts.Outdated != 5 || counts.Halted == nil || counts.Halted.Error() != "no such image" || counts.Watched != 5 {
				t.Errorf("%+v", counts)
			}
			// What else is to be done goes on.
			time.Sleep(24 * time.Hour)
			if w.tried(toRenew) < 5 {
				t.Errorf("%d renewals", w.tried(toRenew))
			}
			broken = false
			pod := w.Pod("a-3")
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, AnnotationUpgrade, "again")
			w.Update(pod)
			time.Sleep(time.Hour)
			if w.told(Upgraded) != 5 || w.told(Resumed) != 1 || watcher.Counts().Halted != nil {
				t.Errorf("%d upgraded, resumed %d times", w.told(Upgraded), w.told(Resumed))
			}
		})
	})
	broken = true
	inRollout(t, oldPods(2, "a"), func(t *testing.T, w *world) {
		w.failing(errors.New("no such image"), func(step step, _ string) bool { return step == toUpgrade && broken })
		w.run(Options{}, func(*Watcher) { time.Sleep(time.Hour) })
		broken = false
		w.run(Options{}, func(*Watcher) { time.Sleep(time.Hour) })
		if w.told(Upgraded) != 2 {
			t.Errorf("%d upgraded by the next watch", w.told(Upgraded))
		}
	})
}

// TestRolloutLeavesAlone what is exempted, what nobody asks for, and what is as new.
func TestRolloutLeavesAlone(t *testing.T) {
	exempt := oldPods(1, "a", "b", "c")
	metav1.SetMetaDataAnnotation(&exempt[1].(*corev1.Pod).ObjectMeta, AnnotationUpgrade, "false")
	// Enabled by hand, and nobody asks for it.
	other := exempt[2].(*corev1.Pod)
	other.Namespace = "other"
	inRollout(t, exempt, func(t *testing.T, w *world) {
		w.run(Options{Namespace: "shop"}, func(*Watcher) { time.Sleep(time.Hour) })
		if w.did(toUpgrade, "a-0") != 0 || w.did(toUpgrade, "c-0") != 1 {
			t.Errorf("%v", w.steps[toUpgrade])
		}
	})
	inRollout(t, oldPods(1, "a"), func(t *testing.T, w *world) {
		namespace := annotatedNamespace()
		namespace.Annotations[AnnotationUpgrade] = "false"
		must.Do(t, w.Tracker().Update(corev1.SchemeGroupVersion.WithResource("namespaces"), namespace, ""))
		w.run(Options{}, func(*Watcher) { time.Sleep(time.Hour) })
		if w.tried(toUpgrade) != 0 {
			t.Error("upgraded although the namespace is exempt")
		}
	})
	inRollout(t, oldPods(1, "a"), func(t *testing.T, w *world) {
		w.upgrades = false
		w.run(Options{}, func(*Watcher) { time.Sleep(time.Hour) })
		if w.tried(toUpgrade) != 0 {
			t.Error("upgraded without being older")
		}
	})
}

func TestRolloutOnce(t *testing.T) {
	inRollout(t, oldPods(4, "a", "b"), func(t *testing.T, w *world) {
		left, err := (&Watcher{Client: w, Actions: w, Report: w.report}).Once(t.Context())
		if left != 0 || err != nil || w.told(Upgraded) != 8 {
			t.Errorf("%d left, %v, %d upgraded", left, err, w.told(Upgraded))
		}
	})
	inRollout(t, oldPods(4, "a"), func(t *testing.T, w *world) {
		w.failing(errors.New("no such image"), func(step step, _ string) bool { return step == toUpgrade })
		left, err := (&Watcher{Client: w, Actions: w, Report: w.report}).Once(t.Context())
		if left == 0 || err != nil || w.tried(toUpgrade) != 1 {
			t.Errorf("%d left, %v, %d tried", left, err, w.tried(toUpgrade))
		}
	})
}

// TestRolloutHaltsAfterADeath of a gateway that had just taken over.
func TestRolloutHaltsAfterADeath(t *testing.T) {
	objects := oldPods(2, "a")
	// The first one was upgraded a while ago, and died.
	pod := objects[1].(*corev1.Pod)
	inRollout(t, objects, func(t *testing.T, w *world) {
		at := time.Now()
		pod = w.Pod("a-0")
		pod.Status.EphemeralContainerStatuses[0].State = wasDisabled(at).state
		with(pod, died(at, time.Minute).byWatch())
		env := &pod.Spec.EphemeralContainers[1].Env[0]
		env.Value = strings.Replace(env.Value, `"version":1`, `"version":1,"replaces":"kube-gateway"`, 1)
		w.Update(pod)
		w.run(Options{Parallel: 1}, func(watcher *Watcher) {
			time.Sleep(time.Hour)
			if w.told(Halted) != 1 || w.told(Replaced) != 1 {
				t.Errorf("halted %d times, %d replaced", w.told(Halted), w.told(Replaced))
			}
		})
	})
}

// TestWatchWaitsForTheUpgradeOfAnother plugin, which is at it.
func TestWatchWaitsForTheUpgradeOfAnother(t *testing.T) {
	now := time.Now()
	both := with(fakecluster.NewPod("p"), runs(), runs())
	env := &both.Spec.EphemeralContainers[1].Env[0]
	env.Value = strings.Replace(env.Value, `"version":1`, `"version":1,"replaces":"kube-gateway"`, 1)
	for _, state := range []api.State{api.Standby, api.Uncertified, api.Starting} {
		if d := decide(situation{pod: both, want: wanted, status: inState(state), askAt: now.Add(time.Minute), older: true, open: true}, now); d.step != wait {
			t.Errorf("%s: %s", state, d.step)
		}
	}
	if d := decide(situation{pod: both, want: unwanted, status: inState(api.Standby), askAt: now.Add(time.Minute)}, now); d.step != toDisable {
		t.Errorf("unwanted: %s", d.step)
	}
	// Without the other one it serves nobody.
	both.Status.EphemeralContainerStatuses[0].State = died(now, time.Hour).state
	if d := decide(situation{pod: both, want: wanted, status: inState(api.Standby), askAt: now.Add(time.Minute)}, now); d.step != toEnable {
		t.Errorf("alone: %s", d.step)
	}
}

func TestOutdated(t *testing.T) {
	for _, c := range []struct {
		own, its, image string
		want            bool
	}{
		{"v1.2.3", "v1.2.2", "gateway:v1.2.2", true},
		{"v1.2.3", "v1.2.3-rc.1", "gateway:rc", true},
		{"v1.2.3", "v1.2.3", "other:v1.2.3", false},
		{"v1.2.3", "v1.3.0", "gateway:v1.3.0", false},
		// It would be no newer then.
		{"v1.2.3", "v1.2.2", "gateway:v1.2.3", false},
		{"dev", "v1.2.2", "gateway:v1.2.2", false},
		{"v1.2.3", "dev", "gateway:dev", false},
		{"v1.2.3", "\x1b", "gateway:x", false},
		{"", "v1.2.2", "gateway:v1.2.2", false},
	} {
		p := &Plugin{Version: c.own, Options: inject.Options{Image: "gateway:v1.2.3"}}
		if got := p.Outdated(installed.Gateway{Image: c.image}, &api.Status{Version: c.its}); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

func TestRolloutSlots(t *testing.T) {
	pod := func(name, workload string) *corev1.Pod {
		p := fakecluster.NewPod(name)
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(workload), Controller: new(true)}}
		return p
	}
	key := func(name string) types.NamespacedName { return types.NamespacedName{Name: name} }
	r := rollout{busy: sets.New[types.UID](), waiting: sets.New[types.NamespacedName]()}
	begin := func(name, workload string) bool { return r.open(key(name), pod(name, workload), true) }
	if !begin("a1", "a") || begin("a2", "a") {
		t.Error("two of a workload")
	}
	for _, name := range []string{"b", "c", "d"} {
		if !begin(name, name) {
			t.Errorf("%s has to wait", name)
		}
	}
	if begin("e", "e") {
		t.Error("more than there is room for")
	}
	r.end(pod("a1", "a"))
	if diff := cmp.Diff(sets.New(key("a2"), key("e")), sets.New(r.waited()...)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !r.halt(errors.New("one")) || r.halt(errors.New("two")) || r.state().Error() != "one" || r.open(key("e"), pod("e", "e"), false) {
		t.Errorf("halted: %v", r.state())
	}
	if !r.resume() || r.resume() || !begin("e", "e") {
		t.Error("it does not go on")
	}
}
