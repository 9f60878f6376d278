package watch

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
)

// declare sets, or takes away, an annotation of the namespace besides that which asks for gateways.
func (w *world) declare(name, value string) {
	resource := corev1.SchemeGroupVersion.WithResource("namespaces")
	object := must.Get(w.Tracker().Get(resource, "", "shop"))(w.t).(*corev1.Namespace).DeepCopy()
	if object.Annotations[api.AnnotationPrefix+name] = value; value == "" {
		delete(object.Annotations, api.AnnotationPrefix+name)
	}
	must.Do(w.t, w.Tracker().Update(resource, object, ""))
	synctest.Wait()
}

func (w *world) config(pod string) api.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.configs[pod]
}

// ofWeb makes pod one of the Deployment web.
func ofWeb(pod *corev1.Pod) *corev1.Pod {
	pod.Labels = map[string]string{"pod-template-hash": "5c9"}
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5c9", UID: "rs", Controller: new(true)}}
	return pod
}

// TestDeclaredSettingsAreApplied changes annotations of a namespace, a Deployment and a pod.
func TestDeclaredSettingsAreApplied(t *testing.T) {
	web := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	inWorld(t, []runtime.Object{annotatedNamespace(), fakecluster.NewPod("db"), ofWeb(fakecluster.NewPod("web")), web}, func(t *testing.T, w *world) {
		w.run(Options{}, func(watcher *Watcher) {
			modes := func(when string, db, web api.Mode) {
				t.Helper()
				expect.Equal(t, when, [2]api.Mode{db, web}, [2]api.Mode{w.config("db").Mode, w.config("web").Mode})
			}
			w.declare("mode", "strict")
			modes("declared at the namespace", api.Strict, api.Strict)
			web = web.DeepCopy()
			web.Annotations = map[string]string{api.AnnotationPrefix + "mode": "permissive"}
			must.Do(t, w.Tracker().Update(appsv1.SchemeGroupVersion.WithResource("deployments"), web, "shop"))
			synctest.Wait()
			modes("declared at the Deployment", api.Strict, api.Permissive)
			pod := w.Pod("web")
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, api.AnnotationPrefix+"mode", "strict")
			w.Update(pod)
			synctest.Wait()
			modes("declared at the pod", api.Strict, api.Strict)
			w.declare("mode", "")
			modes("no longer declared at the namespace", api.Strict, api.Strict)
			if w.tried(toApply) != 4 || w.told(Changed) != 4 {
				t.Errorf("%d were changed in %d tries, want 4", w.told(Changed), w.tried(toApply))
			}
			// Somebody else changes what is declared.
			w.settle("web", func(c *api.Config) { c.Mode = api.Permissive })
			time.Sleep(2 * askInterval)
			modes("changed by hand", api.Strict, api.Strict)
		})
	})
}

// TestTyposChangeNothing: what cannot be read is told once, the gateway keeps what it has, and a new one is strict.
func TestTyposChangeNothing(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace(), fakecluster.NewPod("p")}, func(t *testing.T, w *world) {
		w.run(Options{}, func(watcher *Watcher) {
			w.declare("mode", "strict")
			w.declare("mode", "permisive")
			w.declare("log", "refused")
			time.Sleep(time.Hour)
			expect.Equal(t, "mode", api.Strict, w.config("p").Mode)
			expect.Equal(t, "log", api.LogRefused, w.config("p").Log)
			w.createMany(1)
			synctest.Wait()
			expect.Equal(t, "mode of a new gateway", api.Strict, w.config("p-0").Mode)
			if w.told(Refused) != 2 || watcher.Counts().Failed != 2 {
				t.Errorf("told %d times of the annotation of two pods, %+v", w.told(Refused), watcher.Counts())
			}
			w.declare("mode", "permissive")
			expect.Equal(t, "mode after the correction", api.Permissive, w.config("p").Mode)
			if counts := watcher.Counts(); counts.Failed != 0 || counts.Ready != 2 {
				t.Errorf("after the correction: %+v", counts)
			}
		})
	})
}

// TestWireTakesAnotherGateway: what does not change in place is replaced where that is wanted, and otherwise left.
func TestWireTakesAnotherGateway(t *testing.T) {
	for replace, want := range map[bool]int{false: 0, true: 1} {
		inWorld(t, []runtime.Object{annotatedNamespace(), fakecluster.NewPod("p")}, func(t *testing.T, w *world) {
			w.run(Options{Replace: replace}, func(*Watcher) {
				w.declare("wire", "port")
				time.Sleep(time.Hour)
				if n := w.did(toUpgrade, "p"); n != want {
					t.Errorf("replace %v: replaced %d times", replace, n)
				}
				if w.tried(toApply) != 0 {
					t.Error("tried in place")
				}
			})
		})
	}
}

// TestManyGatewaysAreChangedAFewAtATime: an annotation of a namespace is no storm, nor is a gateway that fails.
func TestManyGatewaysAreChangedAFewAtATime(t *testing.T) {
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		w.createMany(40)
		w.run(Options{Parallel: 4, Declared: declared.FromNamespaces}, func(watcher *Watcher) {
			w.pause = time.Second
			w.failing(errors.New("no"), func(step step, pod string) bool { return step == toApply && pod == "p-7" })
			w.declare("mode", "strict")
			time.Sleep(10 * time.Minute)
			if w.most > 4 || w.told(Changed) != 39 || w.told(Failed) != 1 {
				t.Errorf("%d at a time, %d changed, %d failures told", w.most, w.told(Changed), w.told(Failed))
			}
			if n := w.tried(toApply); n > 39+12 {
				t.Errorf("%d tries", n)
			}
		})
	})
}
