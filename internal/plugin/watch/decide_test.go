package watch

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const testImage = "gateway:v1"

// gateway is a container to be, for with.
type gateway struct {
	state   corev1.ContainerState
	watched bool
}

func (g gateway) byWatch() gateway {
	g.watched = true
	return g
}

func runs() gateway {
	return gateway{state: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func waits(reason string) gateway {
	return gateway{state: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "so it is"}}}
}

// died ended at the given time after it had lived for so long.
func died(at time.Time, lived time.Duration) gateway {
	return gateway{state: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: 137, StartedAt: metav1.NewTime(at.Add(-lived)), FinishedAt: metav1.NewTime(at)}}}
}

func wasDisabled(at time.Time) gateway {
	g := died(at, time.Minute)
	g.state.Terminated.ExitCode, g.state.Terminated.Message = 0, api.DisabledMessage
	return g
}

// with adds gateways to pod as they would be for its present addresses.
func with(pod *corev1.Pod, gateways ...gateway) *corev1.Pod {
	for _, g := range gateways {
		config := api.Config{
			Version: api.ConfigVersion, Pod: api.PodRef{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)},
			TrustDomain: "td", Mode: api.Permissive, OnFailure: api.FailOpen, Watched: g.watched,
			Capture: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		}
		for _, ip := range pod.Status.PodIPs {
			config.PodIPs = append(config.PodIPs, netip.MustParseAddr(ip.IP))
		}
		text, err := json.Marshal(config)
		if err != nil {
			panic(err)
		}
		name := installed.NextName(pod)
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: testImage,
				Env: []corev1.EnvVar{{Name: api.EnvConfig, Value: string(text)}}}})
		pod.Status.EphemeralContainerStatuses = append(pod.Status.EphemeralContainerStatuses,
			corev1.ContainerStatus{Name: name, State: g.state})
	}
	return pod
}

// born is a pod that waits for its sidecar, with the given state.
func born(g gateway) *corev1.Pod {
	pod := with(fakecluster.NewPod("p"), g.byWatch())
	config := strings.Replace(pod.Spec.EphemeralContainers[0].Env[0].Value, "{", `{"sidecar":true,`, 1)
	pod.Spec.EphemeralContainers, pod.Status.EphemeralContainerStatuses = nil, nil
	fakecluster.AddSidecar(pod, config, corev1.ContainerStatus{State: g.state})
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: waits("PodInitializing").state}}
	return pod
}

func altered(pod *corev1.Pod, how func(*corev1.Pod)) *corev1.Pod {
	how(pod)
	return pod
}

// certified is the status of a ready gateway with a certificate of that age and
// life.
func certified(now time.Time, age, life time.Duration) *api.Status {
	return &api.Status{State: api.Ready, Cert: api.Certificate{Serial: "1",
		NotBefore: now.Add(-age - ca.Backdate), NotAfter: now.Add(life - age)}}
}

func inState(state api.State) *api.Status { return &api.Status{State: state} }

func TestDecide(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	later := now.Add(8 * time.Minute)
	p := func(gateways ...gateway) *corev1.Pod { return with(fakecluster.NewPod("p"), gateways...) }
	young := func(n int, last time.Duration) []gateway {
		var list []gateway
		for range n {
			list = append(list, died(now.Add(-last), time.Second))
		}
		return list
	}
	const day = 24 * time.Hour
	for _, c := range []struct {
		name string
		s    situation
		want step
		// in is how long to wait, for step wait.
		in time.Duration
	}{
		// Pods that nothing is to be done about.
		{"nobody asks", situation{pod: p()}, rest, 0},
		{"pending", situation{pod: altered(p(), func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), want: wanted}, rest, 0},
		{"no address yet", situation{pod: altered(p(), func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }), want: wanted}, rest, 0},
		{"finished", situation{pod: altered(p(), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), want: wanted}, rest, 0},
		{"being deleted", situation{pod: altered(p(runs()), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }), want: unwanted}, rest, 0},
		{"about to finish, its gateway has ended", situation{pod: altered(p(died(now, time.Hour)), func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: died(now, 0).state}}
		}), want: wanted}, rest, 0},
		{"its application will be restarted", situation{pod: altered(p(died(now, time.Hour)), func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: died(now, 0).state}}
		}), want: wanted}, toEnable, 0},
		{"unclear, without a gateway", situation{pod: p(), want: unclear}, rest, 0},
		{"unclear, with a watched gateway that died", situation{pod: p(died(now, time.Hour).byWatch()), want: unclear}, rest, 0},

		// First gateways.
		{"annotated", situation{pod: p(), want: wanted}, toEnable, 0},
		{"named", situation{pod: p(), want: named}, toEnable, 0},
		{"on its way", situation{pod: p(waits("")), want: wanted}, toEnable, 0},
		{"on its way, as the kubelet says", situation{pod: p(waits("ContainerCreating")), want: wanted}, toEnable, 0},
		{"on its way, not ours to hasten", situation{pod: p(waits(""))}, rest, 0},
		{"the image cannot be pulled", situation{pod: p(waits("ImagePullBackOff")), want: wanted}, rest, 0},
		{"the image was another one", situation{pod: p(waits("ImagePullBackOff")), want: wanted, image: "gateway:v2"}, toEnable, 0},
		{"its Secret is gone", situation{pod: p(waits("CreateContainerConfigError")), want: wanted}, toEnable, 0},
		{"uncertified", situation{pod: p(runs()), want: wanted, status: inState(api.Uncertified), askAt: later}, toEnable, 0},
		{"uncertified, not ours to certify", situation{pod: p(runs()), status: inState(api.Uncertified), askAt: later}, wait, 8 * time.Minute},
		{"starting", situation{pod: p(runs()), want: named, status: inState(api.Starting), askAt: later}, toEnable, 0},

		// The dead.
		{"died for the first time", situation{pod: p(died(now, time.Second)), want: wanted}, toEnable, 0},
		{"died young for the second time", situation{pod: p(young(2, 0)...), want: wanted}, wait, 10 * time.Second},
		{"died young for the third time", situation{pod: p(young(3, 5*time.Second)...), want: wanted}, wait, 15 * time.Second},
		{"died young for the second time, a while ago", situation{pod: p(young(2, 10*time.Second)...), want: wanted}, toEnable, 0},
		{"died young many times", situation{pod: p(young(20, 0)...), want: wanted}, wait, 5 * time.Minute},
		{"died young all too often", situation{pod: p(young(crowd+1, 0)...), want: wanted}, wait, time.Hour},
		{"died old after one that died young", situation{pod: p(died(now, time.Second), died(now, day)), want: wanted}, toEnable, 0},
		{"died young after one that was disabled", situation{pod: p(died(now, 1), died(now, 1), wasDisabled(now), died(now, 1)), want: wanted}, toEnable, 0},
		{"died, and nobody asks", situation{pod: p(died(now, time.Second))}, rest, 0},
		{"disabled, but wanted", situation{pod: p(wasDisabled(now)), want: wanted}, toEnable, 0},

		// Those that came with their pods.
		{"a sidecar that nobody asked", situation{pod: born(runs()), want: wanted}, toAsk, 0},
		{"an uncertified sidecar", situation{pod: born(runs()), want: wanted, status: inState(api.Uncertified), askAt: later}, toEnable, 0},
		{"an uncertified sidecar, its namespace unread", situation{pod: born(runs()), want: unclear, status: inState(api.Uncertified), askAt: later}, toEnable, 0},
		{"a sidecar against which somebody is", situation{pod: born(runs()), want: unwanted}, toDisable, 0},
		{"a sidecar whose annotation is gone", situation{pod: born(runs())}, toDisable, 0},
		{"a sidecar that starts", situation{pod: born(waits("PodInitializing")), want: wanted}, rest, 0},
		{"a sidecar that died, which the kubelet starts again", situation{pod: born(died(now, time.Second)), want: wanted}, rest, 0},
		{"a sidecar that died in a running pod", situation{pod: altered(born(died(now, time.Second)), func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }), want: wanted}, rest, 0},
		{"a sidecar that was disabled, but wanted", situation{pod: altered(born(wasDisabled(now)), func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }), want: wanted}, toEnable, 0},
		{"a sidecar that idles, as it says", situation{pod: altered(born(runs()), func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }), want: wanted,
			status: inState(api.Disabled), askAt: later}, toEnable, 0},
		{"a sidecar that is ready", situation{pod: altered(born(runs()), func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }), want: wanted,
			status: certified(now, 0, day), askAt: later}, wait, 8 * time.Minute},

		// The end.
		{"annotation gone", situation{pod: p(runs().byWatch())}, toDisable, 0},
		{"annotation gone, enabled by hand", situation{pod: p(runs()), status: certified(now, 0, day), askAt: later}, wait, 8 * time.Minute},
		{"annotation unclear", situation{pod: p(runs().byWatch()), want: unclear, status: certified(now, 0, day), askAt: later}, wait, 8 * time.Minute},
		{"against it, enabled by hand", situation{pod: p(runs()), want: unwanted}, toDisable, 0},
		{"against it, none there", situation{pod: p(), want: unwanted}, rest, 0},
		{"against it, died", situation{pod: p(died(now, time.Hour)), want: unwanted}, toDisable, 0},
		{"against it, disabled", situation{pod: p(wasDisabled(now)), want: unwanted}, rest, 0},
		{"against it, not started", situation{pod: p(waits("")), want: unwanted}, rest, 0},
		{"against it, draining", situation{pod: p(runs()), want: unwanted, status: inState(api.Draining), askAt: later}, wait, 8 * time.Minute},
		{"against it, disabled says the gateway", situation{pod: p(runs()), want: unwanted, ended: "kube-gateway"}, rest, 0},

		// Those that run.
		{"not asked yet", situation{pod: p(runs()), want: wanted}, toAsk, 0},
		{"asked long ago", situation{pod: p(runs()), want: wanted, status: certified(now, 0, day), askAt: now}, toAsk, 0},
		{"draining, to be replaced when it is gone", situation{pod: p(runs()), want: wanted, status: inState(api.Draining), askAt: later}, wait, 8 * time.Minute},
		{"ready", situation{pod: p(runs()), want: wanted, status: certified(now, 0, day), askAt: later}, wait, 8 * time.Minute},
		{"past two thirds", situation{pod: p(runs()), want: wanted, status: certified(now, 17*time.Hour, day), askAt: later}, toRenew, 0},
		{"past two thirds, enabled by hand", situation{pod: p(runs()), status: certified(now, 17*time.Hour, day), askAt: later}, toRenew, 0},
		{"expired", situation{pod: p(runs()), want: wanted, status: certified(now, 2*day, day), askAt: later}, toRenew, 0},
		{"renewed a moment ago", situation{pod: p(runs()), want: wanted, status: certified(now, 17*time.Hour, day), askAt: later, renewed: now}, wait, renewalPause},
		{"degraded", situation{pod: p(runs()), want: wanted, status: inState(api.Degraded), askAt: later}, wait, 8 * time.Minute},
		{"another address", situation{pod: altered(p(runs()), func(p *corev1.Pod) {
			p.Status.PodIP, p.Status.PodIPs = "10.244.1.9", []corev1.PodIP{{IP: "10.244.1.9"}, {IP: "fd00::7"}}
		}), want: wanted}, toDisable, 0},
		{"one address more", situation{pod: altered(p(runs()), func(p *corev1.Pod) {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "10.1.1.1"})
		}), want: wanted}, toDisable, 0},
		{"another address, enabled by hand", situation{pod: altered(p(runs()), func(p *corev1.Pod) { p.Status.PodIP = "10.244.1.9" })}, toAsk, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.s.image == "" {
				c.s.image = testImage
			}
			d := decide(c.s, now)
			if d.step != c.want {
				t.Fatalf("decided to %q, want %q", d.step, c.want)
			}
			if d.step == wait && !d.at.Equal(now.Add(c.in)) {
				t.Errorf("waits for %s, want %s", d.at.Sub(now), c.in)
			}
			if stuck := strings.HasPrefix(c.name, "the image cannot"); stuck != (d.trouble != nil) {
				t.Errorf("trouble is %v", d.trouble)
			}
		})
	}
}

func TestRenewAt(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	// Those of an hour and of a day are what signers issue.
	for life, spread := range map[time.Duration]time.Duration{
		time.Minute: 12 * time.Second, time.Hour: 12 * time.Minute, 24 * time.Hour: 72 * time.Minute, 30 * 24 * time.Hour: 36 * time.Hour,
	} {
		first, last := time.Duration(1<<62), time.Duration(0)
		for i := range 200 {
			at, ok := RenewAt(certified(now, 0, life).Cert, string(rune('a'+i)))
			if !ok {
				t.Fatal("no time")
			}
			first, last = min(first, at.Sub(now)), max(last, at.Sub(now))
		}
		if last > life*2/3 || first < life*2/3-spread {
			t.Errorf("life %s: renewals from %s to %s", life, first, last)
		}
		if last-first < spread*8/10 {
			t.Errorf("life %s: renewals are spread over no more than %s", life, last-first)
		}
	}
	if _, ok := RenewAt(api.Certificate{}, "p"); ok {
		t.Error("a certificate that is not there has a time of renewal")
	}
}

func TestWantOf(t *testing.T) {
	namespace := func(value ...string) *corev1.Namespace {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
		for _, v := range value {
			ns.Annotations = map[string]string{Annotation: v}
		}
		return ns
	}
	for _, c := range []struct {
		name      string
		pod       string
		named     bool
		namespace *corev1.Namespace
		want      want
		trouble   string
	}{
		{"nothing", "", false, namespace(), unsaid, ""},
		{"the pod", "true", false, namespace(), wanted, ""},
		{"the pod against it", "false", true, namespace("true"), unwanted, ""},
		{"the pod in spite of its namespace", "true", false, namespace("false"), wanted, ""},
		{"the namespace", "", false, namespace("true"), wanted, ""},
		{"the namespace against it", "", false, namespace("false"), unwanted, ""},
		{"named", "", true, namespace(), named, ""},
		{"named in spite of its namespace", "", true, namespace("false"), named, ""},
		{"a namespace that cannot be read", "", false, nil, unclear, ""},
		{"no word of ours", "yes", false, namespace("true"), unclear, `annotation kube-gateway.io of the pod is "yes"`},
		{"no word of ours at the namespace", "", false, namespace("1"), unclear, `of namespace shop is "1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := fakecluster.NewPod("p")
			if c.pod != "" {
				pod.Annotations = map[string]string{Annotation: c.pod}
			}
			got, err := wantOf(pod, c.named, c.namespace)
			if got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
			if (err != nil) != (c.trouble != "") || err != nil && !strings.Contains(err.Error(), c.trouble) {
				t.Errorf("got error %v", err)
			}
		})
	}
}

func TestNames(t *testing.T) {
	names := must.Get(ParseNames([]string{"deploy/web", "deployments.apps/web", "sts/db", "cronjob/night", "lonely", "pod/lonely"}))(t)
	if len(names) != 4 {
		t.Fatalf("got %v", names)
	}
	yes := true
	owned := func(kind, name string) *corev1.Pod {
		pod := fakecluster.NewPod("p")
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
		return pod
	}
	owner := func(kind, name string) *metav1.OwnerReference { return &metav1.OwnerReference{Kind: kind, Name: name} }
	for _, c := range []struct {
		pod   *corev1.Pod
		owner *metav1.OwnerReference
		want  bool
	}{
		{fakecluster.NewPod("lonely"), nil, true},
		{fakecluster.NewPod("web"), nil, false},
		{owned("StatefulSet", "db"), nil, true},
		{owned("StatefulSet", "web"), nil, false},
		{owned("ReplicaSet", "web-123"), owner("Deployment", "web"), true},
		{owned("ReplicaSet", "web-123"), nil, false},
		{owned("ReplicaSet", "other-123"), owner("Deployment", "other"), false},
		{owned("Job", "night-1"), owner("CronJob", "night"), true},
	} {
		if got := isNamed(names, c.pod, c.owner); got != c.want {
			t.Errorf("%s of %v of %v: %t", c.pod.Name, c.pod.OwnerReferences, c.owner, got)
		}
	}
	for _, bad := range []string{"svc/web", "deploy/", "pod/a/b", "/x"} {
		if _, err := ParseNames([]string{bad}); err == nil || api.Hint(err) == "" {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}
