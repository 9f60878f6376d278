package disable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// expectFailure checks the outcome of a pod that could not be disabled.
func expectFailure(t *testing.T, result Result, is error, text, hint string) {
	t.Helper()
	expect.Refusal(t, "disabling", result.Err, is, text, hint)
	expect.Equal(t, "action", Failed, result.Action)
}

func TestDisable(t *testing.T) {
	pod := podWith(gateway{api.FailClosed, running(), ""})
	other := pod.DeepCopy()
	other.UID = "uid-other"
	c := newCluster(t, pod, secretOf(pod, "kept"), secretOf(other, "of-another-pod"))
	g := ends(c, disabledState(), &api.DisableReport{Drained: 3, Aborted: 1})
	result := newDisabler(c, g).Disable(t.Context(), pod)
	if result.Err != nil || result.Action != Disabled || result.Container != "kube-gateway" || result.Report == nil || result.Report.Drained != 3 || result.Secrets != 1 {
		t.Fatalf("%+v", result)
	}
	expect.Equal(t, "Secrets", 1, len(c.Secrets()))
	again := newDisabler(c, g).Disable(t.Context(), pod)
	if again.Err != nil || again.Action != Unchanged || len(g.asked) != 1 || len(c.Pod("p").Spec.EphemeralContainers) != 1 {
		t.Errorf("again: %+v, asked %v", again, g.asked)
	}
}

func TestDisableLeavesPodsWithoutGatewayAlone(t *testing.T) {
	pod := podWith()
	c := newCluster(t, pod, secretOf(pod, "left"))
	result := newDisabler(c, &gateways{}).Disable(t.Context(), pod)
	if result.Err != nil || result.Action != Unchanged || result.Container != "" || result.Secrets != 1 || len(c.Secrets()) != 0 {
		t.Errorf("%+v, %d Secrets", result, len(c.Secrets()))
	}
}

// TestDeadGateways has a case for every way in which a gateway can be gone.
func TestDeadGateways(t *testing.T) {
	died, crashed, done := fakecluster.Terminated(1, "no cgroup"), fakecluster.Terminated(137, ""), disabledState()
	unserved, handedOver := fakecluster.Terminated(api.ExitUnserved, "refused"), fakecluster.Terminated(0, api.HandedOverMessage)
	for name, test := range map[string]struct {
		gateways []gateway
		kernel   string
		cleans   bool
		want     Action
	}{
		"open":                           {[]gateway{{api.FailOpen, died, ""}}, "", false, Disabled},
		"closed":                         {[]gateway{{api.FailClosed, died, ""}}, "6.18.1", true, Disabled},
		"unknown":                        {[]gateway{{"", died, ""}}, "6.18.1", true, Disabled},
		"open, killed, filters go":       {[]gateway{{api.FailOpen, crashed, ""}}, "6.6.0", false, Disabled},
		"open, killed, filters stay":     {[]gateway{{api.FailOpen, crashed, ""}}, "6.5.13-1024-cloud", true, Disabled},
		"open, killed, kernel unknown":   {[]gateway{{api.FailOpen, crashed, ""}}, "", true, Disabled},
		"disabled":                       {[]gateway{{api.FailClosed, done, ""}}, "", false, Unchanged},
		"closed, then disabled":          {[]gateway{{api.FailClosed, died, ""}, {api.FailClosed, done, ""}}, "", false, Unchanged},
		"closed, then open":              {[]gateway{{api.FailClosed, died, ""}, {api.FailOpen, died, ""}}, "", true, Disabled},
		"disabled, then open":            {[]gateway{{api.FailClosed, done, ""}, {api.FailOpen, died, ""}}, "", false, Disabled},
		"disabled, then closed":          {[]gateway{{api.FailClosed, done, ""}, {api.FailClosed, died, ""}}, "", true, Disabled},
		"closed, then one without image": {[]gateway{{api.FailClosed, died, ""}, {api.FailOpen, fakecluster.Waiting("ErrImagePull", ""), ""}}, "", true, Disabled},
		"only one without image":         {[]gateway{{api.FailClosed, fakecluster.Waiting("ErrImagePull", ""), ""}}, "", false, Unchanged},
		"only one whose Secret is gone":  {[]gateway{{api.FailClosed, fakecluster.Waiting("CreateContainerConfigError", `secret "x" not found`), ""}}, "", false, Unchanged},
		"cleaned up":                     {[]gateway{{api.FailClosed, died, ""}, {api.FailClosed, done, "clean"}}, "", false, Unchanged},
		"cleaning up failed":             {[]gateway{{api.FailClosed, died, ""}, {api.FailClosed, died, "clean"}}, "", true, Disabled},
		"disabled, after another one could not take over": {[]gateway{{api.FailClosed, done, ""}, {api.FailClosed, unserved, ""}}, "", false, Disabled},
		"died, after another one could not take over":     {[]gateway{{api.FailClosed, crashed, ""}, {api.FailClosed, unserved, ""}}, "", true, Disabled},
		"handed over to one that died":                    {[]gateway{{api.FailClosed, handedOver, ""}, {api.FailClosed, crashed, ""}}, "", true, Disabled},
		"could not be started, no traces": {[]gateway{{api.FailClosed, func() corev1.ContainerState {
			s := fakecluster.Terminated(128, "")
			s.Terminated.Reason = "StartError"
			return s
		}(), ""}}, "", false, Unchanged},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podWith(test.gateways...)
			c := newCluster(t, pod)
			if test.kernel != "" {
				node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
				node.Status.NodeInfo.KernelVersion = test.kernel
				must.Do(t, c.Tracker().Add(node))
			}
			g := &gateways{}
			result := newDisabler(c, g).Disable(t.Context(), pod)
			died := test.want == Disabled && !test.cleans
			if result.Err != nil || result.Action != test.want || (result.Cleaner != "") != test.cleans || result.Died != died || len(g.asked) != 0 {
				t.Errorf("%+v, asked %v", result, g.asked)
			}
			all := c.Pod("p").Spec.EphemeralContainers
			if (len(all) > len(test.gateways)) != test.cleans {
				t.Fatalf("%d containers", len(all))
			}
			if !test.cleans {
				return
			}
			added := all[len(all)-1]
			if added.Image != "plugin:v2" || added.ImagePullPolicy != corev1.PullAlways || len(added.Args) != 1 || added.Args[0] != "clean" ||
				!*added.SecurityContext.Privileged || len(added.Env) != 1 || added.Env[0].Name != api.EnvConfig || added.TargetContainerName != "" {
				t.Errorf("%+v", added)
			}
			if again := newDisabler(c, g).Disable(t.Context(), pod); again.Action != Unchanged || again.Err != nil {
				t.Errorf("again: %+v", again)
			}
		})
	}
}

func TestCleaningUpThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		state corev1.ContainerState
		patch error
		want  string
		hint  string
	}{
		"refuses":  {state: fakecluster.Terminated(1, "a gateway runs in the pod\nhint: disable it"), want: "a gateway runs in the pod", hint: "disable it"},
		"no image": {state: fakecluster.Waiting("ErrImagePull", "no such image"), want: "no such image", hint: "kube-gateway ran gateway:v1"},
		"too old":  {state: fakecluster.Terminated(0, ""), want: "kube-gateway-2 ended with exit code 0", hint: "kubectl logs"},
		"denied":   {patch: errors.New(`violates PodSecurity "baseline:latest"`), want: "violates PodSecurity", hint: "kubectl label namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podWith(gateway{api.FailClosed, fakecluster.Terminated(137, ""), ""})
			c := newCluster(t, pod)
			c.BeforePatch = func(bool) error { return test.patch }
			c.Kubelet = func(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState { return test.state }
			result := newDisabler(c, &gateways{}).Disable(t.Context(), pod)
			expectFailure(t, result, nil, test.want, test.hint)
			if n := len(c.Pod("p").Spec.EphemeralContainers); n > 2 {
				t.Errorf("%d containers", n)
			}
		})
	}
}

// TestAnotherImage cleans up with the image that is given, while one that was tried before is pulled
// in vain.
func TestAnotherImage(t *testing.T) {
	pod := podWith(gateway{api.FailClosed, fakecluster.Terminated(137, ""), ""}, gateway{api.FailClosed, fakecluster.Waiting("ErrImagePull", "i/o timeout"), "clean"})
	c := newCluster(t, pod)
	result := newDisabler(c, &gateways{}).Disable(t.Context(), pod)
	if result.Err != nil || result.Cleaner != "kube-gateway-3" {
		t.Fatalf("%+v", result)
	}
	expect.Equal(t, "image", "plugin:v2", c.Pod("p").Spec.EphemeralContainers[2].Image)
}

func TestWhatIsLeftIsAFailure(t *testing.T) {
	pod := podWith(gateway{api.FailOpen, running(), ""})
	c := newCluster(t, pod)
	g := &gateways{disable: func(context.Context, string, int) (*api.DisableReport, error) {
		return &api.DisableReport{Left: []string{"program kgw_connect4", "filter on eth0"}}, nil
	}}
	result := newDisabler(c, g).Disable(t.Context(), pod)
	expectFailure(t, result, nil, "program kgw_connect4, filter on eth0 is left", "")
}

// TestGatewayThatDiesWhileItDrains is cleaned up after in the same run.
func TestGatewayThatDiesWhileItDrains(t *testing.T) {
	pod := podWith(gateway{api.FailClosed, running(), ""})
	c := newCluster(t, pod)
	g := &gateways{disable: func(_ context.Context, container string, _ int) (*api.DisableReport, error) {
		c.SetState("p", container, fakecluster.Terminated(137, ""))
		return nil, remote.ErrNotRunning
	}}
	result := newDisabler(c, g).Disable(t.Context(), pod)
	if result.Err != nil || result.Action != Disabled || result.Cleaner != "kube-gateway-2" || result.Report != nil {
		t.Errorf("%+v", result)
	}
}

// TestDeadGatewayThatIsShownAsRunning: the kubelet takes its time to tell, and the runtime has no such container any more.
func TestDeadGatewayThatIsShownAsRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := podWith(gateway{api.FailClosed, running(), ""})
		c := newCluster(t, pod)
		g := &gateways{disable: func(context.Context, string, int) (*api.DisableReport, error) {
			return nil, &remote.UnheardError{Err: errors.New("no running task found")}
		}}
		time.AfterFunc(8*time.Second, func() { c.SetState("p", "kube-gateway", fakecluster.Terminated(137, "")) })
		result := newDisabler(c, g).Disable(t.Context(), pod)
		if result.Err != nil || result.Action != Disabled || result.Cleaner != "kube-gateway-2" {
			t.Errorf("%+v", result)
		}
	})
}

func TestAGatewayOnItsWayIsWaitedForAndEnded(t *testing.T) {
	pod := podWith(gateway{api.FailClosed, fakecluster.Waiting("ContainerCreating", ""), ""})
	c := newCluster(t, pod, secretOf(pod, "needed"))
	g := ends(c, disabledState(), &api.DisableReport{})
	done := make(chan Result, 1)
	go func() { done <- newDisabler(c, g).Disable(t.Context(), pod) }()
	c.AwaitWatch()
	if len(g.asked) != 0 || len(c.Secrets()) != 1 {
		t.Error("not waited for")
	}
	c.SetState("p", "kube-gateway", running())
	if result := expect.Within(t, done); result.Err != nil || result.Action != Disabled || result.Report == nil || len(c.Secrets()) != 0 {
		t.Errorf("%+v", result)
	}
}

func TestAllThatRunAreEnded(t *testing.T) {
	pod := podWith(gateway{api.FailClosed, running(), ""}, gateway{api.FailClosed, running(), ""}, gateway{api.FailOpen, running(), "clean"})
	c := newCluster(t, pod)
	g := ends(c, disabledState(), &api.DisableReport{})
	go func() {
		c.AwaitWatch()
		c.SetState("p", "kube-gateway-3", disabledState())
	}()
	if result := newDisabler(c, g).Disable(t.Context(), pod); result.Err != nil || strings.Join(g.asked, " ") != "kube-gateway-2 kube-gateway" {
		t.Errorf("%+v, asked %v", result, g.asked)
	}
}

func TestABrokenExecIsJoined(t *testing.T) {
	pod := podWith(gateway{api.FailClosed, running(), ""})
	c := newCluster(t, pod)
	g := &gateways{disable: func(_ context.Context, container string, attempt int) (*api.DisableReport, error) {
		if attempt == 1 {
			return nil, errors.New("connection reset")
		}
		c.SetState("p", container, disabledState())
		return &api.DisableReport{Drained: 1}, nil
	}}
	if result := newDisabler(c, g).Disable(t.Context(), pod); result.Err != nil || result.Report == nil || len(g.asked) != 2 {
		t.Errorf("%+v, asked %v", result, g.asked)
	}
}

func TestALostReportIsNoFailure(t *testing.T) {
	pod := podWith(gateway{api.FailClosed, running(), ""})
	c := newCluster(t, pod)
	g := &gateways{disable: func(ctx context.Context, container string, _ int) (*api.DisableReport, error) {
		c.SetState("p", container, disabledState())
		<-ctx.Done() // the connection hangs
		return nil, ctx.Err()
	}}
	if result := newDisabler(c, g).Disable(t.Context(), pod); result.Err != nil || result.Action != Disabled || result.Report != nil {
		t.Errorf("%+v", result)
	}
}

func TestDisableThatDoesNotWorkOut(t *testing.T) {
	always := func(err error) func(context.Context, string, int) (*api.DisableReport, error) {
		return func(context.Context, string, int) (*api.DisableReport, error) { return nil, err }
	}
	for name, test := range map[string]struct {
		g     *gateways
		asked int
		want  string
		hint  string
	}{
		"runtime":   {&gateways{disable: always(&remote.UnheardError{Err: errors.New("no task")})}, attempts, "no task", "again"},
		"network":   {&gateways{disable: always(errors.New("no route"))}, attempts, "telling kube-gateway to end: no route", "'kubectl gateway disable pod/p -n shop' again"},
		"forbidden": {&gateways{disable: always(remote.ErrForbidden)}, 1, "not allowed", "again"},
		"its words": {&gateways{disable: always(fakegateway.Refuse("unknown control command\nhint: use status"))}, 1, "unknown control command", "use status"},
		"gone":      {&gateways{disable: always(remote.ErrPodGone)}, 1, "replaced", "name the pod"},
		"another":   {&gateways{uid: "uid-other"}, 0, "replaced", "name the pod"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pod := podWith(gateway{api.FailClosed, running(), ""})
				c := newCluster(t, pod)
				result := newDisabler(c, test.g).Disable(t.Context(), pod)
				expectFailure(t, result, nil, test.want, test.hint)
				expect.Equal(t, "times asked", test.asked, len(test.g.asked))
			})
		})
	}
}

func TestThePodGoesMeanwhile(t *testing.T) {
	pod := podWith(gateway{api.FailClosed, running(), ""})
	c := newCluster(t, pod)
	g := &gateways{uid: "uid-p", disable: func(ctx context.Context, _ string, _ int) (*api.DisableReport, error) {
		c.AwaitWatch()
		if err := c.Tracker().Delete(fakecluster.Pods, "shop", "p"); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	expectFailure(t, newDisabler(c, g).Disable(t.Context(), pod), installed.ErrReplaced, "", "")
}

func TestDisableEndsInTheUsersTerms(t *testing.T) {
	silent := func(ctx context.Context, _ string, _ int) (*api.DisableReport, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	pod := podWith(gateway{api.FailClosed, running(), ""})
	d := newDisabler(newCluster(t, pod), &gateways{disable: silent})
	d.Options.DrainTimeout, d.Options.Timeout = 0, 50*time.Millisecond
	result := d.Disable(t.Context(), pod)
	expectFailure(t, result, errTimeout, "50ms after the drain timeout; container kube-gateway may be on its way", "--timeout")
	ctx, interrupt := context.WithCancel(t.Context())
	d = newDisabler(newCluster(t, pod), &gateways{disable: func(ctx context.Context, name string, n int) (*api.DisableReport, error) {
		interrupt()
		return silent(ctx, name, n)
	}})
	expectFailure(t, d.Disable(ctx, pod), errInterrupted, "", "again")
}

func TestSecretsThatMayNotBeSeen(t *testing.T) {
	pod := podWith(gateway{api.FailClosed, disabledState(), ""})
	c := newCluster(t, pod)
	c.Forbid("list", "secrets")
	if result := newDisabler(c, &gateways{}).Disable(t.Context(), pod); result.Err != nil || !result.SecretsUnknown {
		t.Errorf("%+v", result)
	}
	c = newCluster(t, pod, secretOf(pod, "left"))
	c.Forbid("delete", "secrets")
	expectFailure(t, newDisabler(c, &gateways{}).Disable(t.Context(), pod), nil, "", "private key")
}

func TestDryRunsChangeNothing(t *testing.T) {
	for _, dryRun := range []installed.DryRun{installed.DryRunClient, installed.DryRunServer} {
		for name, test := range map[string]struct {
			pod     *corev1.Pod
			want    Action
			cleaner string
		}{
			"running":  {podWith(gateway{api.FailClosed, running(), ""}), Disabled, ""},
			"dead":     {podWith(gateway{api.FailClosed, fakecluster.Terminated(1, ""), ""}), Disabled, "kube-gateway-2"},
			"disabled": {podWith(gateway{api.FailClosed, disabledState(), ""}), Unchanged, ""},
			"none":     {podWith(), Unchanged, ""},
		} {
			c := newCluster(t, test.pod, secretOf(test.pod, "left"))
			g, patches := &gateways{}, 0
			c.BeforePatch = func(bool) error { patches++; return nil }
			d := newDisabler(c, g)
			d.Options.DryRun = dryRun
			result := d.Disable(t.Context(), test.pod)
			tried := test.cleaner != "" && dryRun == installed.DryRunServer
			if result.Err != nil || result.Action != test.want || result.Cleaner != test.cleaner || len(g.asked) != 0 || len(c.Secrets()) != 1 || (patches == 1) != tried ||
				len(c.Pod("p").Spec.EphemeralContainers) != len(test.pod.Spec.EphemeralContainers) {
				t.Errorf("%s, %s: %+v, tried %d", dryRun, name, result, patches)
			}
		}
	}
}

// attempts is how often a gateway is told to end.
const attempts = 3

func running() corev1.ContainerState { return fakecluster.Running(nil, nil) }

func disabledState() corev1.ContainerState { return fakecluster.Terminated(0, api.DisabledMessage) }

// gateway is one that a pod has.
type gateway struct {
	onFailure api.OnFailure
	state     corev1.ContainerState
	command   string
}

func podWith(gateways ...gateway) *corev1.Pod {
	pod := fakecluster.NewPod("p")
	for _, g := range gateways {
		config := "broken"
		if g.onFailure != "" {
			config = fmt.Sprintf(`{"version":1,"pod":{"namespace":"shop","name":"p","uid":"uid-p","serviceAccount":"default"},
				"podIPs":["10.0.0.7"],"trustDomain":"td","mode":"strict","onFailure":%q,"ranges":["10.0.0.0/8"]}`, g.onFailure)
		}
		container := fakecluster.AddGateway(pod, config, g.state)
		container.ImagePullPolicy, container.Args = corev1.PullNever, []string{cmp.Or(g.command, "supervise")}
	}
	return pod
}

// secretOf is one that a killed plugin has left for pod.
func secretOf(pod *corev1.Pod, name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: name,
		Labels:      map[string]string{installed.LabelManagedBy: installed.ManagedBy, installed.LabelPodUID: string(pod.UID)},
		Annotations: map[string]string{installed.AnnotationKeep: "true"}}}
}

// newCluster returns a cluster whose kubelet ends all that is added as it should.
func newCluster(t *testing.T, objects ...runtime.Object) *fakecluster.Cluster {
	c := fakecluster.New(t, objects...)
	c.Kubelet = func(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState { return disabledState() }
	return c
}

// gateways answers for all gateways of a cluster.
type gateways struct {
	mu sync.Mutex
	// asked are the containers that were told to end.
	asked   []string
	uid     string
	disable func(ctx context.Context, container string, attempt int) (*api.DisableReport, error)
}

func (g *gateways) answer(ctx context.Context, call *fakegateway.Call) (any, error) {
	switch {
	case call.Op() == "status" && g.uid == "":
		return nil, errors.New("too busy to say")
	case call.Op() == "status":
		return &api.Status{State: api.Ready, Pod: api.PodRef{UID: g.uid}}, nil
	}
	g.mu.Lock()
	g.asked = append(g.asked, call.Container)
	n := len(g.asked)
	g.mu.Unlock()
	report, err := g.disable(ctx, call.Container, n)
	if report == nil {
		return nil, err
	}
	return report, err
}

func newDisabler(c *fakecluster.Cluster, g *gateways) *Disabler {
	return &Disabler{
		Client: c, Options: Options{DrainTimeout: time.Second, Timeout: expect.Patience, Image: "plugin:v2", PullPolicy: corev1.PullAlways},
		Gateways: &remote.Client{Kube: c, Runner: fakegateway.Gateways(g.answer), Backoff: wait.Backoff{Steps: attempts, Duration: time.Millisecond}, Notice: 10 * time.Second},
	}
}

// ends has the kubelet report the end of the gateway that is told to.
func ends(c *fakecluster.Cluster, state corev1.ContainerState, report *api.DisableReport) *gateways {
	return &gateways{uid: "uid-p", disable: func(_ context.Context, container string, _ int) (*api.DisableReport, error) {
		c.SetState("p", container, state)
		return report, nil
	}}
}
