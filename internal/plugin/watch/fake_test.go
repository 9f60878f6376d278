package watch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// world is a cluster whose gateways do at once what they are told. It belongs to
// one synctest bubble, in which time.Sleep moves the clock.
type world struct {
	*fakecluster.Cluster
	t    *testing.T
	life time.Duration

	// fail, if not nil, is asked before each step whether it fails.
	fail func(step step, pod string) error
	// pause is how long each step takes.
	pause time.Duration
	// followSigner, if not nil, follows a signer.
	followSigner func(context.Context) (changed bool, words []string, err error)

	mu     sync.Mutex
	events []Event
	// steps counts what was done about each pod, tries includes failures.
	steps map[step]map[string]int
	tries map[step]int
	busy  map[string]bool
	// now and most are how many steps are under way, and ever were.
	now, most int
	certs     map[string]api.Certificate
	serial    int
	// version is what the cluster has, surveyed what the last of surveys found, and versions
	// what gateways have, by pod. unread is the error of a survey.
	version, surveyed string
	surveys, changes  int
	unread            error
	// upgrades has gateways with another image than testImage be outdated.
	upgrades bool
	// upgrading are the workloads of which a pod is upgraded, and mostUpgrades how many there ever were.
	upgrading    map[types.UID]int
	mostUpgrades int
	versions     map[string]string
	// configs are the settings of gateways, by pod.
	configs map[string]api.Config
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	return &world{Cluster: fakecluster.New(t, objects...), t: t, life: 24 * time.Hour,
		steps: map[step]map[string]int{}, tries: map[step]int{}, busy: map[string]bool{}, certs: map[string]api.Certificate{}, versions: map[string]string{}, upgrading: map[types.UID]int{}, configs: map[string]api.Config{}}
}

// inWorld calls test with a world of objects, in fake time.
func inWorld(t *testing.T, objects []runtime.Object, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t, objects...)) })
}

func annotatedNamespace() *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: map[string]string{Annotation: "true"}}}
}

// run starts a watcher, calls do, and ends the watcher.
func (w *world) run(options Options, do func(*Watcher)) {
	w.t.Helper()
	watcher := &Watcher{Client: w, Actions: w, Options: options, Report: w.report}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error)
	go func() { done <- watcher.Run(ctx) }()
	synctest.Wait()
	do(watcher)
	cancel()
	if err := <-done; err != nil {
		w.t.Errorf("the watcher ended with %v", err)
	}
}

func (w *world) report(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// told counts the events of one kind.
func (w *world) told(action Action) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, e := range w.events {
		if e.Action == action {
			n++
		}
	}
	return n
}

// failing has the steps fail with err for which when is true.
func (w *world) failing(err error, when func(step step, pod string) bool) {
	w.fail = func(step step, pod string) error {
		if when(step, pod) {
			return err
		}
		return nil
	}
}

func (w *world) did(step step, pod string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.steps[step][pod]
}

func (w *world) tried(step step) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tries[step]
}

// step does one step, after checking that no other is under way for the pod.
func (w *world) step(ctx context.Context, step step, pod *corev1.Pod, do func() error) error {
	w.mu.Lock()
	if w.busy[pod.Name] {
		w.t.Errorf("two steps at a time for pod %s", pod.Name)
	}
	w.busy[pod.Name] = true
	w.now++
	w.most = max(w.most, w.now)
	w.tries[step]++
	w.mu.Unlock()
	var err error
	if w.pause > 0 {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(w.pause):
		}
	}
	if err == nil && w.fail != nil {
		err = w.fail(step, pod.Name)
	}
	w.mu.Lock()
	w.now--
	w.busy[pod.Name] = false
	if err == nil {
		if w.steps[step] == nil {
			w.steps[step] = map[string]int{}
		}
		w.steps[step][pod.Name]++
	}
	w.mu.Unlock()
	if err == nil {
		err = do()
	}
	return err
}

func (w *world) Image() string { return testImage }

func (w *world) Follow(installed.Pods) {}

// Outdated says so of a gateway with another image than that of the world, unless that is newest.
func (w *world) Outdated(gateway installed.Gateway, _ *api.Status) bool {
	return w.upgrades && gateway.Image != testImage
}

func (w *world) Upgrade(ctx context.Context, pod *corev1.Pod, _ *api.Status, settings declared.Settings) Outcome {
	out := Outcome{Changed: true}
	w.mu.Lock()
	if w.upgrading[installed.WorkloadOf(pod)]++; w.upgrading[installed.WorkloadOf(pod)] > 1 {
		w.t.Errorf("two pods of the workload of %s are upgraded at a time", pod.Name)
	}
	w.mostUpgrades = max(w.mostUpgrades, len(w.upgrading))
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.upgrading, installed.WorkloadOf(pod))
	}()
	out.Err = w.step(ctx, toUpgrade, pod, func() error {
		now := w.Pod(pod.Name)
		out.Container = installed.NextName(now)
		last := len(now.Spec.EphemeralContainers) - 1
		w.SetState(pod.Name, now.Spec.EphemeralContainers[last].Name, wasDisabled(time.Now()).state)
		w.Update(with(w.Pod(pod.Name), runs().byWatch()))
		return nil
	})
	if out.Err == nil {
		w.settle(pod.Name, settings.Change)
		out.Status = w.certify(pod.Name)
	}
	return out
}

// settle changes the settings of the gateway of pod.
func (w *world) settle(pod string, change func(*api.Config)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	config := w.configs[pod]
	change(&config)
	w.configs[pod] = config
}

func (w *world) Apply(ctx context.Context, pod *corev1.Pod, settings declared.Settings) Outcome {
	gateway, _ := installed.Current(pod)
	out := Outcome{Container: gateway.Name, Changed: true, Settings: settings}
	if out.Err = w.step(ctx, toApply, pod, func() error { return nil }); out.Err == nil {
		w.settle(pod.Name, func(c *api.Config) {
			inPlace, _ := settings.Missing(c)
			inPlace.Change(c)
		})
		out.Status = w.status(pod.Name)
	}
	return out
}

func (w *world) ClusterChanged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes++
}

// Survey is a step about no pod. What it finds is the version that the cluster has.
func (w *world) Survey(_ context.Context, pods []corev1.Pod) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(pods) == 0 {
		w.surveyed = ""
		return nil
	}
	w.surveys++
	if w.unread == nil {
		w.surveyed = w.version
	}
	return w.unread
}

// Covered compares versions, which gateways tell as their fingerprints.
func (w *world) Covered(_ *corev1.Pod, status *api.Status) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.surveyed == "" || status.Capture.Fingerprint == w.surveyed
}

func (w *world) Known(*corev1.Pod) bool { return true }

func (w *world) FollowSigner(ctx context.Context) (bool, []string, error) {
	if w.followSigner == nil {
		return false, nil, nil
	}
	return w.followSigner(ctx)
}

func (w *world) Refresh(ctx context.Context, pod *corev1.Pod, container string, status *api.Status) Outcome {
	out := Outcome{Container: container, Changed: true, Covered: &change.Covered{Changed: true}}
	out.Err = w.step(ctx, toRefresh, pod, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.versions[pod.Name] = w.surveyed
		return nil
	})
	if out.Err == nil {
		out.Status = w.status(pod.Name)
	}
	return out
}

// status is what the gateway of pod says.
func (w *world) status(pod string) *api.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.configs[pod]
	return &api.Status{State: api.Ready, Cert: w.certs[pod], Mode: c.Mode, Wire: c.Wire, Rules: c.Rules, Log: api.LogStatus{Level: c.Log},
		Capture: api.Capture{Named: c.Named, Fingerprint: w.versions[pod]}}
}

var errRefused = errors.New("the pod uses the node's network")

func (w *world) Enable(ctx context.Context, pod *corev1.Pod, annotated bool, settings declared.Settings) Outcome {
	out := Outcome{Changed: true}
	out.Err = w.step(ctx, toEnable, pod, func() error {
		g := runs()
		g.watched = annotated
		now := w.Pod(pod.Name)
		out.Container = installed.NextName(now)
		w.Update(with(now, g))
		return nil
	})
	if out.Refused = errors.Is(out.Err, errRefused); out.Err == nil {
		w.settle(pod.Name, settings.Apply)
		out.Status = w.certify(pod.Name)
	}
	return out
}

func (w *world) Disable(ctx context.Context, pod *corev1.Pod) Outcome {
	gateway, _ := installed.Current(pod)
	return Outcome{Container: gateway.Name, Changed: true, Err: w.step(ctx, toDisable, pod, func() error {
		w.setState(pod.Name, wasDisabled(time.Now()).state)
		return nil
	})}
}

func (w *world) Renew(ctx context.Context, pod *corev1.Pod, container string) Outcome {
	out := Outcome{Container: container, Changed: true}
	if out.Err = w.step(ctx, toRenew, pod, func() error { return nil }); out.Err == nil {
		out.Status = w.certify(pod.Name)
	}
	return out
}

func (w *world) Ask(ctx context.Context, pod *corev1.Pod, _ string) (*api.Status, error) {
	if err := w.step(ctx, toAsk, pod, func() error { return nil }); err != nil {
		return nil, err
	}
	return w.status(pod.Name), nil
}

// certify gives the gateway of a pod a certificate.
func (w *world) certify(pod string) *api.Status {
	w.mu.Lock()
	w.serial++
	now := time.Now()
	w.certs[pod] = api.Certificate{Serial: strconv.Itoa(w.serial), NotBefore: now.Add(-ca.Backdate), NotAfter: now.Add(w.life)}
	w.mu.Unlock()
	return w.status(pod)
}

func (w *world) create(pod *corev1.Pod) {
	must.Do(w.t, w.Tracker().Create(fakecluster.Pods, pod, pod.Namespace))
}

// setState is the kubelet's report about the newest gateway of a pod.
func (w *world) setState(pod string, state corev1.ContainerState) {
	gateway, _ := installed.Current(w.Pod(pod))
	w.SetState(pod, gateway.Name, state)
}

func (w *world) annotate(pod, value string) {
	p := w.Pod(pod)
	if value == "" {
		delete(p.Annotations, Annotation)
	} else {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, Annotation, value)
	}
	w.Update(p)
}

func (w *world) annotateNamespace(value string) {
	ns := annotatedNamespace()
	if ns.Annotations[Annotation] = value; value == "" {
		ns.Annotations = nil
	}
	must.Do(w.t, w.Tracker().Update(corev1.SchemeGroupVersion.WithResource("namespaces"), ns, ""))
}

// gateways returns how many gateways a pod has and ever had.
func (w *world) gateways(pod string) (running, all int) {
	list := installed.Gateways(w.Pod(pod))
	for _, g := range list {
		if g.Phase == installed.Running {
			running++
		}
	}
	return running, len(list)
}

// eachOnce checks that each of n pods called p-0, p-1, … has one gateway and
// never had another one.
func (w *world) eachOnce(n int) {
	w.t.Helper()
	for i := range n {
		name := fmt.Sprintf("p-%d", i)
		if running, all := w.gateways(name); running != 1 || all != 1 {
			w.t.Errorf("pod %s has %d gateways, %d of them running", name, all, running)
		}
	}
}

func (w *world) createMany(n int) {
	for i := range n {
		pod := fakecluster.NewPod(fmt.Sprintf("p-%d", i))
		pod.UID = types.UID("uid-" + pod.Name)
		w.create(pod)
	}
}
