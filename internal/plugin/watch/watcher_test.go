package watch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestFiftyPodsAtOnce(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		w.pause = 3 * time.Second
		w.run(Options{Parallel: 8}, func(watcher *Watcher) {
			w.createMany(50)
			synctest.Wait()
			if counts := watcher.Counts(); counts.Watched != 8 || counts.Working != 8 {
				t.Errorf("in the beginning: %+v", counts)
			}
			time.Sleep(time.Minute)
			w.eachOnce(50)
			if w.told(Enabled) != 50 || w.tried(toEnable) != 50 {
				t.Errorf("%d were enabled in %d tries", w.told(Enabled), w.tried(toEnable))
			}
			if w.most != 8 {
				t.Errorf("%d pods were worked on at a time", w.most)
			}
			counts := watcher.Counts()
			if counts.Watched != 50 || counts.Ready != 50 || counts.NextRenewal.IsZero() || !counts.Connected {
				t.Errorf("in the end: %+v", counts)
			}
		})
	})
}

// TestNamespaceKeepsItsShare: pods whose gateways never become ready hold up those of their own namespace alone.
func TestNamespaceKeepsItsShare(t *testing.T) {
	const other = "other"
	objects := []runtime.Object{annotatedNamespace(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other, Annotations: map[string]string{Annotation: "true"}}}}
	inWorld(t, objects, func(t *testing.T, w *world) {
		w.fail = func(_ step, pod string) error {
			if pod == "web" {
				return nil
			}
			time.Sleep(time.Minute)
			return errors.New("not ready")
		}
		w.run(Options{Parallel: 8}, func(watcher *Watcher) {
			for i := range 100 {
				pod := fakecluster.NewPod(fmt.Sprintf("p-%d", i))
				pod.Namespace, pod.UID = other, types.UID("uid-"+pod.Name)
				must.Get(w.CoreV1().Pods(other).Create(t.Context(), pod, metav1.CreateOptions{}))(t)
			}
			synctest.Wait()
			w.create(fakecluster.NewPod("web"))
			time.Sleep(time.Second)
			if w.did(toEnable, "web") != 1 || w.most != 9 {
				t.Errorf("enabled %d times, and %d pods were worked on at a time", w.did(toEnable, "web"), w.most)
			}
			// Those that wait for a worker of their namespace are to be looked at, too.
			if families := watcher.Metrics(true, time.Now()).Families; !slices.ContainsFunc(families, func(f api.MetricFamily) bool {
				return strings.HasSuffix(f.Name, "queue_length") && f.Samples[0].Value == 92
			}) {
				t.Errorf("the length of the queue is not 92: %+v", families)
			}
			time.Sleep(15 * time.Minute)
			if n := w.tried(toEnable); n < 101 {
				t.Errorf("%d tries", n)
			}
		})
	})
}

func TestFailuresEveryThirdTime(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		var calls atomic.Int32
		w.failing(errors.New("no"), func(step, string) bool { return calls.Add(1)%3 == 0 })
		w.run(Options{}, func(watcher *Watcher) {
			w.createMany(50)
			time.Sleep(2 * time.Minute)
			w.eachOnce(50)
			if counts := watcher.Counts(); counts.Ready != 50 {
				t.Errorf("%+v", counts)
			}
			if w.told(Failed) == 0 || w.tried(toEnable) > 100 {
				t.Errorf("%d failures were told, in %d tries", w.told(Failed), w.tried(toEnable))
			}
		})
	})
}

// The cache stays as it was in the beginning, while pods are looked at again.
func TestStaleCache(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		w.createMany(5)
		w.PrependWatchReactor("pods", func(clienttesting.Action) (bool, apiwatch.Interface, error) {
			return true, apiwatch.NewRaceFreeFake(), nil
		})
		w.run(Options{}, func(watcher *Watcher) {
			for range 10 {
				w.annotateNamespace("")
				synctest.Wait()
				w.annotateNamespace("true")
				time.Sleep(time.Minute)
			}
			w.eachOnce(5)
			if w.tried(toEnable) != 5 {
				t.Errorf("%d tries for 5 pods", w.tried(toEnable))
			}
			if counts := watcher.Counts(); counts.Ready != 5 {
				t.Errorf("%+v", counts)
			}
		})
	})
}

func TestOutage(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		var (
			down    atomic.Bool
			asked   atomic.Int32
			streams []*apiwatch.RaceFreeFakeWatcher
		)
		refused := func(clienttesting.Action) (bool, runtime.Object, error) {
			if !down.Load() {
				return false, nil, nil
			}
			asked.Add(1)
			return true, nil, apierrors.NewServiceUnavailable("connection refused")
		}
		w.PrependReactor("*", "*", refused)
		w.PrependWatchReactor("*", func(a clienttesting.Action) (bool, apiwatch.Interface, error) {
			if handled, _, err := refused(a); handled {
				return true, nil, err
			}
			stream, err := w.Tracker().Watch(a.GetResource(), a.GetNamespace())
			if err == nil {
				streams = append(streams, stream.(*apiwatch.RaceFreeFakeWatcher))
			}
			return true, stream, err
		})
		w.failing(apierrors.NewServiceUnavailable("connection refused"), func(step, string) bool { return down.Load() })
		w.createMany(10)
		w.run(Options{}, func(watcher *Watcher) {
			time.Sleep(time.Second)
			w.eachOnce(10)
			down.Store(true)
			for _, stream := range streams {
				stream.Stop()
			}
			// A gateway dies unseen, and a pod comes.
			w.setState("p-3", died(time.Now(), time.Hour).state)
			w.create(fakecluster.NewPod("late"))
			time.Sleep(time.Minute)
			if watcher.Counts().Connected || w.told(Disconnected) != 1 {
				t.Errorf("the outage was told %d times", w.told(Disconnected))
			}
			if asked.Load() > 200 {
				t.Errorf("%d requests in a minute without a server", asked.Load())
			}
			down.Store(false)
			// Reflectors pause for up to 30 s, with jitter.
			time.Sleep(90 * time.Second)
			if !watcher.Counts().Connected || w.told(Reconnected) != 1 {
				t.Errorf("the end of the outage was told %d times", w.told(Reconnected))
			}
			for _, name := range []string{"late", "p-3"} {
				if running, _ := w.gateways(name); running != 1 {
					t.Errorf("pod %s has no gateway that runs", name)
				}
			}
			if counts := watcher.Counts(); counts.Ready != 11 {
				t.Errorf("%+v", counts)
			}
		})
	})
}

// While steps fail because of an outage, pauses stay short; and once it is over
// nothing waits for its pause.
func TestRetriesAfterAnOutage(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		var down atomic.Bool
		down.Store(true)
		w.failing(apierrors.NewServiceUnavailable("away"), func(step, string) bool { return down.Load() })
		w.run(Options{}, func(watcher *Watcher) {
			w.createMany(10)
			time.Sleep(10 * time.Minute)
			if tries := w.tried(toEnable); tries < 10*35 || tries > 10*60 {
				t.Errorf("%d tries in ten minutes", tries)
			}
			if w.told(Failed) != 10 {
				t.Errorf("the same failure of 10 pods was told %d times", w.told(Failed))
			}
			down.Store(false)
			// A step that failed this very moment waits all of it, and then takes its time.
			time.Sleep(outageDelay + time.Second)
			w.eachOnce(10)
		})
	})
}

func TestExpiredWatch(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		var streams []*apiwatch.RaceFreeFakeWatcher
		w.PrependWatchReactor("pods", func(clienttesting.Action) (bool, apiwatch.Interface, error) {
			// It tells nothing, until it says that it is too old.
			stream := apiwatch.NewRaceFreeFake()
			streams = append(streams, stream)
			return true, stream, nil
		})
		w.run(Options{}, func(watcher *Watcher) {
			w.createMany(3)
			time.Sleep(time.Minute)
			if w.tried(toEnable) != 0 {
				t.Error("the watch tells what it must not: this test proves nothing")
			}
			streams[len(streams)-1].Error(&metav1.Status{Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired})
			time.Sleep(time.Minute)
			w.eachOnce(3)
			if w.told(Disconnected) != 0 {
				t.Error("an expired watch was told as an outage")
			}
		})
	})
}

func TestRenewals(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		w.createMany(10)
		w.run(Options{}, func(*Watcher) {
			time.Sleep(14 * time.Hour)
			if w.tried(toRenew) != 0 {
				t.Errorf("%d renewals within 14 of 24 hours", w.tried(toRenew))
			}
			time.Sleep(2*time.Hour + time.Minute)
			for i := range 10 {
				if n := w.did(toRenew, "p-"+string(rune('0'+i))); n != 1 {
					t.Errorf("pod %d was renewed %d times in 16 hours", i, n)
				}
			}
			if asked := w.tried(toAsk); asked < 10*16*60/13 || asked > 10*16*60/7 {
				t.Errorf("gateways were asked %d times", asked)
			}
		})
	})
}

// What a watcher that was not there has missed is made up for at its start.
func TestExpiredCertificatesAreRenewedAtOnce(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace(), with(fakecluster.NewPod("p"), runs())}, func(t *testing.T, w *world) {
		now := time.Now()
		w.certs["p"] = api.Certificate{Serial: "old", NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-24 * time.Hour)}
		w.run(Options{}, func(*Watcher) {
			if w.did(toRenew, "p") != 1 || w.tried(toEnable) != 0 {
				t.Errorf("%d renewals, %d others enabled", w.did(toRenew, "p"), w.tried(toEnable))
			}
		})
	})
}

// An authority that ends issues certificates that are due for renewal at once.
func TestRenewalsDoNotRace(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace(), fakecluster.NewPod("p")}, func(t *testing.T, w *world) {
		w.life = time.Millisecond
		w.run(Options{}, func(*Watcher) {
			time.Sleep(time.Minute)
			if n := w.tried(toRenew); n < 3 || n > 7 {
				t.Errorf("%d renewals in a minute", n)
			}
		})
	})
}

func TestReplace(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace(), fakecluster.NewPod("p")}, func(t *testing.T, w *world) {
		w.run(Options{}, func(watcher *Watcher) {
			time.Sleep(time.Hour)
			w.setState("p", died(time.Now(), time.Hour).state)
			synctest.Wait()
			if running, all := w.gateways("p"); running != 1 || all != 2 || w.told(Replaced) != 1 {
				t.Fatalf("%d of %d run, %d replaced", running, all, w.told(Replaced))
			}
			// From now on each dies in the second after its birth.
			end := time.Now().Add(time.Hour)
			for time.Now().Before(end) {
				if running, _ := w.gateways("p"); running == 1 {
					time.Sleep(time.Second)
					w.setState("p", died(time.Now(), time.Second).state)
				}
				time.Sleep(time.Second)
			}
			if _, all := w.gateways("p"); all < 12 || all > 20 {
				t.Errorf("%d gateways in an hour", all)
			}
		})
	})
}

func TestAnnotationComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ns := annotatedNamespace()
		ns.Annotations = nil
		w := newWorld(t, ns, fakecluster.NewPod("p"), with(fakecluster.NewPod("by-hand"), runs()))
		w.certify("by-hand")
		w.run(Options{}, func(watcher *Watcher) {
			expect := func(what string, counts Counts, enabled, disabled int) {
				t.Helper()
				synctest.Wait()
				time.Sleep(time.Second)
				got := watcher.Counts()
				if got.Watched != counts.Watched || got.Ready != counts.Ready || got.Failed != counts.Failed {
					t.Errorf("%s: %+v", what, got)
				}
				if w.tried(toEnable) != enabled || w.tried(toDisable) != disabled {
					t.Errorf("%s: enabled %d times, disabled %d times", what, w.tried(toEnable), w.tried(toDisable))
				}
			}
			expect("nothing asked", Counts{Watched: 1, Ready: 1}, 0, 0)
			w.annotate("p", "true")
			expect("asked", Counts{Watched: 2, Ready: 2}, 1, 0)
			w.annotate("p", "")
			expect("not asked any more", Counts{Watched: 1, Ready: 1}, 1, 1)
			w.annotateNamespace("true")
			expect("asked for the namespace", Counts{Watched: 2, Ready: 2}, 2, 1)
			w.annotate("by-hand", "false")
			expect("asked against one by hand", Counts{Watched: 1, Ready: 1}, 2, 2)
			w.annotate("p", "maybe")
			expect("unclear", Counts{Watched: 1, Failed: 1}, 2, 2)
			w.annotate("p", "")
			expect("clear again", Counts{Watched: 1, Ready: 1}, 2, 2)
			w.annotateNamespace("")
			expect("not asked for the namespace any more", Counts{}, 2, 3)
		})
		if w.told(Failed) != 1 || w.told(Disabled) != 3 {
			t.Errorf("told: %d failures, %d disabled", w.told(Failed), w.told(Disabled))
		}
	})
}

func TestRefusedPodsAreToldOnce(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace(), fakecluster.NewPod("p")}, func(t *testing.T, w *world) {
		w.fail = func(step, string) error { return errRefused }
		w.run(Options{}, func(watcher *Watcher) {
			time.Sleep(24 * time.Hour)
			if w.tried(toEnable) != 1 {
				t.Errorf("tried %d times without a change", w.tried(toEnable))
			}
			for range 3 {
				pod := w.Pod("p")
				pod.Labels = map[string]string{"at": time.Now().Format(time.StampNano)}
				w.Update(pod)
				time.Sleep(time.Minute)
			}
			if w.tried(toEnable) != 4 || w.told(Refused) != 1 || watcher.Counts().Failed != 1 {
				t.Errorf("%d tries, %d times told, %+v", w.tried(toEnable), w.told(Refused), watcher.Counts())
			}
		})
	})
}

// A pod that fails does not get more attention because it changes all the time.
func TestChangesDoNotCutPausesShort(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace(), fakecluster.NewPod("p")}, func(t *testing.T, w *world) {
		w.fail = func(step, string) error { return errors.New("no") }
		w.run(Options{}, func(*Watcher) {
			for range 600 {
				pod := w.Pod("p")
				pod.Labels = map[string]string{"at": time.Now().Format("150405")}
				w.Update(pod)
				time.Sleep(time.Second)
			}
			if n := w.tried(toEnable); n < 8 || n > 12 {
				t.Errorf("%d tries in ten minutes", n)
			}
		})
	})
}

func TestPodsThatGoAreNoFailures(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace(), fakecluster.NewPod("p")}, func(t *testing.T, w *world) {
		w.fail = func(_ step, pod string) error {
			_ = w.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "shop", pod)
			return errors.New("the pod is gone")
		}
		w.run(Options{}, func(watcher *Watcher) {
			time.Sleep(time.Minute)
			if w.tried(toEnable) != 1 || w.told(Failed) != 0 || watcher.Counts().Watched != 0 {
				t.Errorf("%d tries, %d failures, %+v", w.tried(toEnable), w.told(Failed), watcher.Counts())
			}
		})
	})
}

// run itself checks that the watcher ends.
func TestEndsInTheMiddleOfWork(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		w.pause = time.Hour
		start := time.Now()
		w.run(Options{}, func(*Watcher) {
			w.createMany(20)
			synctest.Wait()
		})
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %s", took)
		}
		if w.told(Failed) != 0 {
			t.Error("what was interrupted was told as a failure")
		}
	})
}

func TestDeployment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ns := annotatedNamespace()
		ns.Annotations = nil
		yes := true
		pod := fakecluster.NewPod("web-1-x")
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-1", UID: "rs", Controller: &yes}}
		w := newWorld(t, ns, pod, fakecluster.NewPod("other"))
		names := must.Get(ParseNames([]string{"deploy/web"}))(t)
		w.run(Options{Namespace: "shop", Names: names}, func(*Watcher) {
			if w.tried(toEnable) != 0 {
				t.Error("enabled before its ReplicaSet was known")
			}
			err := w.Tracker().Add(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "rs",
				OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: "web", UID: "d", Controller: &yes}}}})
			must.Do(t, err)
			synctest.Wait()
			if w.did(toEnable, "web-1-x") != 1 || w.tried(toEnable) != 1 {
				t.Errorf("the Deployment's pod was enabled %d times, all %d", w.did(toEnable, "web-1-x"), w.tried(toEnable))
			}
			if watched(w.Pod("web-1-x"), "kube-gateway") {
				t.Error("a gateway that a name asked for would end with the name")
			}
		})
		// The next watcher has no names: what they asked for stays.
		w.run(Options{}, func(*Watcher) {
			if w.tried(toDisable) != 0 {
				t.Error("disabled because the name is not on the command line any more")
			}
		})
	})
}

func TestOnce(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace(), with(fakecluster.NewPod("old"), runs())}, func(t *testing.T, w *world) {
		now := time.Now()
		w.certs["old"] = api.Certificate{NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-24 * time.Hour)}
		w.createMany(20)
		once := func() int {
			watcher := &Watcher{Client: w, Actions: w, Report: w.report}
			failures, err := watcher.Once(t.Context())
			if err != nil {
				t.Error(err)
			}
			return failures
		}
		w.failing(errors.New("no"), func(step step, pod string) bool { return step == toEnable && strings.HasSuffix(pod, "7") })
		if failures := once(); failures != 2 {
			t.Errorf("%d failures", failures)
		}
		if w.did(toRenew, "old") != 1 || w.told(Enabled) != 18 {
			t.Errorf("%d renewals, %d enabled", w.did(toRenew, "old"), w.told(Enabled))
		}
		w.fail = nil
		if failures := once(); failures != 0 {
			t.Errorf("%d failures the second time", failures)
		}
		w.eachOnce(20)
	})
}

func TestForbidden(t *testing.T) {
	t.Run("pods", func(t *testing.T) {
		w := newWorld(t)
		w.Forbid("list", "pods")
		watcher := &Watcher{Client: w, Actions: w, Report: w.report}
		if err := watcher.Run(t.Context()); !apierrors.IsForbidden(err) || !strings.Contains(api.Hint(err), "list and watch pods") {
			t.Errorf("got %v, hint %q", err, api.Hint(err))
		}
	})
	t.Run("namespaces and nodes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			asking := fakecluster.NewPod("asking")
			asking.Annotations = map[string]string{Annotation: "true"}
			// Its namespace may still ask for it.
			w := newWorld(t, annotatedNamespace(), asking, with(fakecluster.NewPod("left"), runs().byWatch()))
			w.certify("left")
			w.Forbid("list", "namespaces")
			w.Forbid("list", "nodes")
			w.run(Options{}, func(*Watcher) {
				if w.did(toEnable, "asking") != 1 || w.tried(toDisable) != 0 || w.told(Noticed) != 1 {
					t.Errorf("%v", w.steps)
				}
			})
		})
	})
}

func TestNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
		w := newWorld(t, annotatedNamespace(), node)
		w.run(Options{}, func(*Watcher) {
			start := w.changes
			update := func(n *corev1.Node) {
				if err := w.Tracker().Update(corev1.SchemeGroupVersion.WithResource("nodes"), n, ""); err != nil {
					t.Error(err)
				}
				synctest.Wait()
			}
			beat := node.DeepCopy()
			beat.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady}}
			if update(beat); w.changes != start {
				t.Error("a heartbeat counts as a change")
			}
			moved := beat.DeepCopy()
			moved.Status.Addresses = []corev1.NodeAddress{{Address: "192.168.1.1"}}
			if update(moved); w.changes != start+1 {
				t.Error("another address counts as no change")
			}
		})
	})
}

func TestNamesNeedANamespace(t *testing.T) {
	w := newWorld(t)
	watcher := &Watcher{Client: w, Actions: w, Options: Options{Names: []Name{{"Pod", "p"}}}, Report: w.report}
	if err := watcher.Run(context.Background()); err == nil {
		t.Error("no error")
	}
}
