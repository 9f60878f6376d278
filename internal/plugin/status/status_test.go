package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muesli/termenv"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

var now = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

// asker answers for pods by name.
type asker map[string]func(context.Context) (*api.Status, error)

func (a asker) client() *remote.Client {
	return fakegateway.Gateways(func(ctx context.Context, call *fakegateway.Call) (any, error) {
		answer, ok := a[call.Pod]
		if !ok || call.Op() != "status" {
			return nil, fmt.Errorf("nobody expected that %v is asked for %q", call.Ref, call.Words)
		}
		status, err := answer(ctx)
		if status == nil {
			return nil, err
		}
		return status, err
	}).Client(nil)
}

func says(status *api.Status, err error) func(context.Context) (*api.Status, error) {
	return func(context.Context) (*api.Status, error) { return status, err }
}

// pod returns a pod with a gateway in the given state, or without if it is nil.
func pod(name, mode, onFailure string, state *corev1.ContainerState) corev1.Pod {
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: "node-1"},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.1.7"}, {IP: "fd00::7"}}},
	}
	if state == nil {
		return p
	}
	config := fmt.Sprintf(`{"version":1,"pod":{"namespace":"demo","name":%q,"uid":"uid-%s","serviceAccount":"default"},
		"podIPs":["10.0.1.7","fd00::7"],"trustDomain":"td","mode":%q,"onFailure":%q,"ranges":["10.0.0.0/8"]}`, name, name, mode, onFailure)
	fakecluster.AddGateway(&p, config, *state)
	return p
}

func running() *corev1.ContainerState {
	return &corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-time.Hour))}}
}

func ended(code int32, reason, message string) *corev1.ContainerState {
	return &corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message,
		StartedAt: metav1.NewTime(now.Add(-time.Hour)), FinishedAt: metav1.NewTime(now.Add(-5 * time.Minute))}}
}

func waiting(reason, message string) *corev1.ContainerState {
	return &corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// sandboxSince is what the kubelet says of a pod whose sandbox is there.
func sandboxSince(t time.Time) []corev1.PodCondition {
	return []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(t)}}
}

func answer(name string, state api.State, expiresIn time.Duration) *api.Status {
	return &api.Status{Version: "v1.2.3", State: state, Pod: api.PodRef{Namespace: "demo", Name: name, UID: "uid-" + name},
		Mode: api.Strict, OnFailure: api.FailClosed, Identity: "spiffe://td/ns/demo/sa/default",
		Cert: api.Certificate{NotBefore: now.Add(-8 * time.Hour), NotAfter: now.Add(expiresIn)},
		Traffic: api.Traffic{
			Outbound: api.Direction{Encrypted: 100, Plaintext: 2, Refused: 3, Sent: 2048, Received: 1 << 20},
			Inbound:  api.Direction{Encrypted: 23, Plaintext: 1, Refused: 1, Sent: 0, Received: 512}},
		Log: api.LogStatus{Level: api.LogConnections, Limit: api.DefaultLogLimit}}
}

// example has a pod for every state.
func example() (asker, []corev1.Pod) {
	degraded := answer("degraded", api.Degraded, 16*time.Hour)
	degraded.Log = api.LogStatus{Level: api.LogRefused, Limit: 64 << 20, Total: 2 << 20, Lines: 9, Bytes: 900, DroppedLines: 12, DroppedBytes: 1200}
	inband := answer("inband", api.Ready, 16*time.Hour)
	inband.Wire, inband.Allow = api.WireAuto, []string{"ns/prod/sa/*", "ns/ops/sa/backup"}
	inband.Traffic.Outbound.Inband, inband.Traffic.Outbound.OptionLost, inband.Traffic.Inbound.Inband = 40, 2, 3
	inband.Deny, inband.Audit = []string{"ns/prod/sa/web:8080,9000-9010"}, true
	inband.Traffic.Inbound.NotAllowed, inband.Traffic.Inbound.Audited = 5, 7
	inband.Capture = api.Capture{CaptureCounts: api.CaptureCounts{UDP: 9, PlaintextRefused: 6, PlaintextAllowed: 11}}
	covering := answer("covering", api.Ready, 16*time.Hour)
	covering.Capture = api.Capture{Coverage: api.Coverage{
		PlaintextFrom: []api.Source{{From: netip.MustParsePrefix("10.9.0.0/16"), Ports: api.Ports{{First: 80, Last: 80}, {First: 9000, Last: 9010}}},
			{From: netip.MustParsePrefix("fd00::1/128")}},
		Pass:      []netip.AddrPort{netip.MustParseAddrPort("10.96.0.1:443"), netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("192.168.1.1:6443"), netip.MustParseAddrPort("192.168.1.2:6443"), netip.MustParseAddrPort("192.168.1.3:6443")},
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.7:80")}},
		OutsideNetworks: []api.OutsideNetwork{{Network: netip.MustParsePrefix("172.16.1.0/24"), Connections: 5}, {Network: netip.MustParsePrefix("172.16.2.0/24"), Connections: 3},
			{Network: netip.MustParsePrefix("172.16.3.0/24"), Connections: 2}, {Network: netip.MustParsePrefix("172.16.4.0/24"), Connections: 1}},
		CaptureCounts: api.CaptureCounts{Excluded: 21, OutsideConnections: 12, OutsideRefused: 4}}
	outside := answer("outside", api.Ready, 16*time.Hour)
	outside.Capture = api.Capture{CaptureCounts: api.CaptureCounts{OutsideConnections: 2, OutsideRefused: 2}}
	outside.Traffic.Outbound.OptionDropped = 7
	beside, barred := answer("beside", api.Ready, 16*time.Hour), answer("barred", api.Ready, 16*time.Hour)
	beside.Mode, beside.OnFailure, beside.Wire = api.Permissive, api.FailOpen, api.WirePort
	beside.Capture = api.Capture{CaptureCounts: api.CaptureCounts{ServicePassed: 383, Uncapturable: 2, Nested: 3, Forwarded: 4, NoListener: 5}}
	barred.Wire, barred.Capture = api.WirePort, api.Capture{CaptureCounts: api.CaptureCounts{ServiceRefused: 6, Uncapturable: 7, NoListener: 8}}
	reached := answer("reached", api.Ready, 16*time.Hour)
	reached.Wire, reached.Capture = api.WireAuto, api.Capture{CaptureCounts: api.CaptureCounts{ServicePassed: 383}}
	blocked := answer("blocked", api.Ready, 16*time.Hour)
	blocked.Wire, blocked.Capture = api.WireInband, api.Capture{CaptureCounts: api.CaptureCounts{UDP: 4, UDPRefused: 4, UDPAnswers: 3}, BlockUDP: true}
	lacking := answer("lacking", api.Ready, 16*time.Hour)
	lacking.Mode, lacking.Missing = api.Permissive, []string{
		"in-band wire: the kernel has no helper\x1b[2J\nFnSkAssign", api.MissingConfinement + ": the gateway's log says why"}
	lacking.Capture = api.Capture{CaptureCounts: api.CaptureCounts{UDP: 4, UDPRefused: 1}, BlockUDP: true}
	tight, full, unlimited := answer("tight", api.Ready, 16*time.Hour), answer("full", api.Ready, 16*time.Hour), answer("unlimited", api.Ready, 16*time.Hour)
	tight.Memory = &api.Memory{Used: 30 << 20, Limit: 128 << 20, Left: 31 << 20, Room: 490, Killed: 2}
	full.Memory, full.Missing = &api.Memory{Used: 30 << 20, Limit: 64 << 20, Left: 3 << 20}, []string{api.MissingProtection + ": permission denied"}
	unlimited.Memory = &api.Memory{Used: 21<<20 + 1<<19}
	full.FIPS140, full.Worker.Confinement = "v1.0.0", api.Confinement{Seccomp: true, Landlock: 7}
	existing := answer("existing", api.Ready, 16*time.Hour)
	existing.Existing = &api.ExistingConnections{Outbound: 3, Inbound: 2, Reset: 7}
	clean := answer("clean", api.Ready, 16*time.Hour)
	clean.Existing, clean.Time = &api.ExistingConnections{Reset: 7}, now.Add(-5*time.Minute)
	ahead, behind := answer("ahead", api.Ready, 16*time.Hour), answer("behind", api.Ready, 16*time.Hour)
	ahead.Time, behind.Time = now.Add(12*time.Minute), now.Add(-6*time.Minute)
	moved := pod("moved", "strict", "closed", running())
	moved.Status.PodIPs[0].IP = "10.0.1.8"
	gained := pod("gained", "strict", "closed", running())
	gained.Status.PodIPs = append(gained.Status.PodIPs, corev1.PodIP{IP: "fd00::8"})
	rebooted, killed := pod("rebooted", "strict", "closed", ended(255, "Unknown", "")), pod("killed", "strict", "closed", ended(137, "Error", ""))
	rebooted.Status.Conditions = sandboxSince(now.Add(-time.Minute))
	killed.Status.Conditions = sandboxSince(now.Add(-2 * time.Hour))
	again := pod("again", "strict", "closed", waiting("ContainerCreating", ""))
	again.Status.PodIPs = again.Status.PodIPs[:1]
	degraded.Reason, degraded.Worker.Restarts = "the worker ended with signal: killed", 4
	answers, pods := asker{}, []corev1.Pod(nil)
	add := func(pod corev1.Pod, status *api.Status) {
		if pods = append(pods, pod); status != nil {
			answers[pod.Name] = says(status, nil)
		}
	}
	runs := func(name string, status *api.Status) { add(pod(name, "strict", "closed", running()), status) }
	runs("ready", answer("ready", api.Ready, 16*time.Hour))
	runs("near", answer("near", api.Ready, 2*time.Hour))
	runs("expired", answer("expired", api.Ready, -30*time.Minute))
	runs("early", &api.Status{State: api.Starting, Pod: api.PodRef{UID: "uid-early"}, Cert: api.Certificate{NotBefore: now.Add(time.Hour), NotAfter: now.Add(30 * time.Hour)}})
	runs("degraded", degraded)
	runs("inband", inband)
	runs("blocked", blocked)
	runs("covering", covering)
	runs("outside", outside)
	add(pod("beside", "permissive", "open", running()), beside)
	runs("barred", barred)
	runs("reached", reached)
	add(pod("lacking", "permissive", "open", running()), lacking)
	add(pod("silent", "permissive", "open", running()), nil)
	answers["silent"] = says(nil, api.WithHint(errors.New("not allowed to run commands in the pod"), "ask for a role"))
	add(pod("imposter", "permissive", "open", running()), answer("ready", api.Ready, time.Hour))
	add(pod("liar", "permissive", "open", running()), &api.Status{State: "crashed", Pod: api.PodRef{UID: "uid-liar"}})
	add(pod("odd", "permissive", "open", running()), &api.Status{State: "odd\x1b[2J", Pod: api.PodRef{UID: "uid-odd"}})
	runs("escapes", &api.Status{State: api.Ready, Identity: "spiffe://\x1b]0;x\a\nready", Pod: api.PodRef{UID: "uid-escapes"},
		Mode: "strict\r", Version: "\u202ev1"})
	add(pod("crashed-open", "permissive", "open", ended(2, "Error", "cannot find the pod's cgroup\nhint: use cgroup v2\x1b[2J\n")), nil)
	add(pod("crashed-closed", "strict", "closed", ended(137, "OOMKilled", "")), nil)
	add(pod("stopped", "permissive", "open", ended(0, "Completed", "")), nil)
	add(pod("creating", "permissive", "open", waiting("ContainerCreating", "")), nil)
	add(pod("no-image", "permissive", "open", waiting("ImagePullBackOff", "Back-off pulling image")), nil)
	add(pod("bystander", "", "", nil), nil)
	runs("tight", tight)
	add(pod("full", "permissive", "open", running()), full)
	runs("unlimited", unlimited)
	runs("existing", existing)
	runs("clean", clean)
	runs("ahead", ahead)
	runs("behind", behind)
	runs("new", &api.Status{State: api.Uncertified, Pod: api.PodRef{UID: "uid-new"}})
	runs("draining", answer("draining", api.Draining, 16*time.Hour))
	add(pod("disabled", "strict", "closed", ended(0, "Completed", api.DisabledMessage+"\n")), nil)
	add(moved, answer("moved", api.Ready, 16*time.Hour))
	add(gained, answer("gained", api.Ready, 16*time.Hour))
	pods = append(pods, rebooted, killed, again)
	add(pod("no-secret", "strict", "closed", waiting("CreateContainerConfigError", `secret "web-kube-gateway" not found`)), nil)
	return answers, pods
}

func collect(t *testing.T) *List {
	t.Helper()
	answers, pods := example()
	return collectOf(t, answers, pods...)
}

// collectOf collects the status of pods that answer as they are asked.
func collectOf(t *testing.T, answers asker, pods ...corev1.Pod) *List {
	t.Helper()
	list := must.Get((&Collector{Gateways: answers.client(), Now: clock}).Collect(t.Context(), pods))(t)
	return list
}

func TestTables(t *testing.T) {
	list := collect(t)
	for _, c := range []struct {
		file    string
		profile termenv.Profile
		options TableOptions
	}{
		{"plain.txt", termenv.Ascii, TableOptions{Now: now}},
		{"wide.txt", termenv.Ascii, TableOptions{Now: now, Wide: true, Namespace: true}},
		{"colour.txt", termenv.ANSI, TableOptions{Now: now}},
	} {
		var out bytes.Buffer
		style := terminal.New(&out, true, c.profile)
		must.Do(t, list.Table(&out, style, c.options))
		must.Do(t, list.Advice(&out, style))
		bare := regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(out.String(), "")
		if strings.ContainsAny(bare, "\x1b\a\r\u202e") {
			t.Errorf("%s: something harmful is left in %q", c.file, bare)
		}
		golden.Check(t, c.file, out.String())
	}
}

func TestNothingToAdvise(t *testing.T) {
	list := collectOf(t, asker{"ready": says(answer("ready", api.Ready, 16*time.Hour), nil)}, pod("ready", "strict", "closed", running()))
	var out bytes.Buffer
	if err := list.Advice(&out, terminal.New(&out, false, termenv.Ascii)); err != nil || out.Len() > 0 {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if list.Unread() {
		t.Error("a gateway that answered counts as unread")
	}
}

func TestJSONForm(t *testing.T) {
	list := collect(t)
	text := must.Get(json.MarshalIndent(list, "", "  "))(t)
	golden.Check(t, "list.json", string(text)+"\n")
	if !list.Unread() {
		t.Error("a gateway that did not answer is not counted as unread")
	}
}

// TestLeft: the gateway of a pod that ends is missed by nobody.
func TestLeft(t *testing.T) {
	for name, change := range map[string]func(*corev1.Pod){
		"deleted": func(p *corev1.Pod) { p.DeletionTimestamp = new(metav1.Now()) },
		"failed":  func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
		"gone":    func(p *corev1.Pod) { p.Name = "other" },
		"":        func(*corev1.Pod) {},
	} {
		p := pod("web", "strict", "closed", running())
		leaving := p.DeepCopy()
		change(leaving)
		gateways := asker{"web": says(nil, errors.New("container not found"))}.client()
		list := must.Get((&Collector{Gateways: gateways, Now: clock, Client: fakecluster.New(t, leaving)}).Collect(t.Context(), []corev1.Pod{p}))(t)
		severity := list.Items[0].Problems[0].Severity
		if left := name == "deleted" || name == "failed"; list.Unread() == left || (severity == Note) != left || list.Items[0].State != NotAnswering {
			t.Errorf("%s: %+v", name, list.Items[0])
		}
	}
}

// TestDeadGatewayThatIsShownAsRunning is crashed, and not silent.
func TestDeadGatewayThatIsShownAsRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pod("web", "strict", "closed", running())
		p.Namespace = fakecluster.NewPod("web").Namespace
		cluster := fakecluster.New(t, &p)
		time.AfterFunc(time.Second, func() { cluster.SetState("web", "kube-gateway", fakecluster.Terminated(137, "no memory")) })
		gateways := fakegateway.Gateways(func(context.Context, *fakegateway.Call) (any, error) {
			return nil, &remote.UnheardError{Err: errors.New("no running task found")}
		}).Client(cluster)
		gateways.Notice = 10 * time.Second
		item := must.Get((&Collector{Gateways: gateways, Now: clock, Client: cluster}).Collect(t.Context(), []corev1.Pod{p}))(t).Items[0]
		if item.State != Crashed || item.Error != "" || !strings.Contains(item.Problems[0].Text, "the gateway crashed with exit code 137") {
			t.Errorf("%+v", item)
		}
	})
}

func TestGatewayIsAskedWithinTheTimeout(t *testing.T) {
	silent := asker{"web": func(ctx context.Context) (*api.Status, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("running: %w", context.Cause(ctx))
	}}
	list, err := (&Collector{Gateways: silent.client(), Timeout: time.Millisecond, Now: clock}).
		Collect(t.Context(), []corev1.Pod{pod("web", "strict", "closed", running())})
	if err != nil || list.Items[0].State != NotAnswering || list.Items[0].Error != "no answer within 1ms" {
		t.Errorf("got %+v, %v", list, err)
	}
}

func TestCollectEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	silent := asker{"web": func(ctx context.Context) (*api.Status, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	_, err := (&Collector{Gateways: silent.client(), Now: clock}).Collect(ctx, []corev1.Pod{pod("web", "strict", "closed", running())})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestGatewaysAreAskedInParallelWithinTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound, total = DefaultParallel, DefaultParallel + 6
		var asked atomic.Int32
		release := make(chan struct{})
		all := asker{}
		var pods []corev1.Pod
		for i := range total {
			name := fmt.Sprintf("web-%02d", i)
			pods = append(pods, pod(name, "strict", "closed", running()))
			all[name] = func(context.Context) (*api.Status, error) {
				asked.Add(1)
				<-release
				return answer(name, api.Ready, time.Hour), nil
			}
		}
		var list *List
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			list, err = (&Collector{Gateways: all.client(), Timeout: time.Minute, Now: clock}).Collect(t.Context(), pods)
		}()
		// Nothing moves any more once as many as may are being asked.
		synctest.Wait()
		if n := asked.Load(); n != bound {
			t.Errorf("%d are asked at a time, want %d", n, bound)
		}
		close(release)
		<-done
		must.Do(t, err)
		for i, item := range list.Items {
			if item.Pod != pods[i].Name || item.State != Ready || item.Status.Pod.Name != item.Pod {
				t.Fatalf("item %d is %+v", i, item)
			}
		}
	})
}

func TestNewestGatewayCounts(t *testing.T) {
	p := pod("web", "permissive", "open", ended(1, "Error", "old"))
	fakecluster.AddGateway(&p, p.Spec.EphemeralContainers[0].Env[0].Value, *running())
	list := collectOf(t, asker{"web": says(answer("web", api.Ready, 16*time.Hour), nil)}, p)
	if list.Items[0].State != Ready || list.Items[0].Container.Name != "kube-gateway-2" || len(list.Items[0].Problems) > 0 {
		t.Errorf("got %+v", list)
	}
	if list.Items[0].PodIPs[1] != netip.MustParseAddr("fd00::7") {
		t.Errorf("addresses %v", list.Items[0].PodIPs)
	}
}

// TestTwoGateways of one pod: that which serves is shown, and the other one told of.
func TestTwoGateways(t *testing.T) {
	two := func(second corev1.ContainerState) corev1.Pod {
		p := pod("web", "strict", "closed", running())
		fakecluster.AddGateway(&p, `{"replaces":"kube-gateway"}`, second)
		return p
	}
	for name, test := range map[string]struct {
		second       corev1.ContainerState
		newer, older api.State
		container    string
		state        State
		severity     Severity
		text         string
	}{
		"standby": {*running(), api.Standby, api.Ready, "kube-gateway", Ready, Warning, "an upgrade has not come to its end: kube-gateway-2 waits to take the place of kube-gateway"},
		"drains":  {*running(), api.Ready, api.Draining, "kube-gateway-2", Ready, Note, "connections of kube-gateway, whose place this gateway took"},
		"stuck":   {*waiting("ErrImagePull", "no such tag"), "", api.Ready, "kube-gateway", Ready, Note, "an upgrade has failed, and kube-gateway serves: kube-gateway-2 does not start: ErrImagePull: no such tag"},
		"starts":  {*waiting("ContainerCreating", ""), "", api.Ready, "kube-gateway", Ready, "", ""},
		"failed":  {*ended(1, "Error", "no proof"), "", api.Ready, "kube-gateway", Ready, "", ""},
	} {
		client := fakegateway.Gateways(func(_ context.Context, call *fakegateway.Call) (any, error) {
			state := test.older
			if call.Container == "kube-gateway-2" {
				state = test.newer
			}
			return answer("web", state, 16*time.Hour), nil
		}).Client(nil)
		list := must.Get((&Collector{Gateways: client, Now: clock}).Collect(t.Context(), []corev1.Pod{two(test.second)}))(t)
		item := list.Items[0]
		if item.Container.Name != test.container || item.State != test.state {
			t.Errorf("%s: %s is %s", name, item.Container.Name, item.State)
		}
		var found []Problem
		for _, p := range item.Problems {
			if strings.Contains(p.Text, "upgrade") || strings.Contains(p.Text, "place") {
				found = append(found, p)
			}
		}
		switch {
		case test.text == "" && len(found) == 0:
		case len(found) != 1 || found[0].Severity != test.severity || !strings.Contains(found[0].Text, test.text):
			t.Errorf("%s: %+v", name, found)
		}
	}
}

func TestManyGateways(t *testing.T) {
	p := pod("web", "strict", "closed", ended(0, "Completed", api.DisabledMessage))
	for range 18 {
		fakecluster.AddGateway(&p, "{}", *ended(0, "Completed", api.DisabledMessage))
	}
	for _, want := range []bool{false, true} {
		if want {
			fakecluster.AddGateway(&p, "{}", *running())
		}
		list := must.Get((&Collector{Gateways: asker{"web": says(answer("web", api.Ready, 16*time.Hour), nil)}.client(), Now: clock}).Collect(t.Context(), []corev1.Pod{p}))(t)
		if got := strings.Contains(fmt.Sprint(list.Items[0].Problems), "has had 20 gateways"); got != want {
			t.Errorf("%+v, want it told: %t", list.Items[0].Problems, want)
		}
	}
}

// TestStartThatIsHeldUp: a gateway that waits for a port is a problem, in the words of the gateway
// and with the names of the pod.
func TestStartThatIsHeldUp(t *testing.T) {
	id := strings.Repeat("a", 64)
	web := pod("web", "strict", "closed", running())
	web.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "nginx", ContainerID: "containerd://" + id}}
	held := answer("web", api.Starting, 0)
	held.Reason = "port 18443 is held by a listener at [::]:18443 in container " + id
	list := collectOf(t, asker{"web": says(held, nil)}, web)
	want := Problem{Severity: Critical, Text: "the gateway cannot start yet: port 18443 is held by a listener at [::]:18443 in container nginx",
		Hint: "it starts by itself once nothing is in its way"}
	if problems := list.Items[0].Problems; len(problems) == 0 || problems[0] != want {
		t.Errorf("%+v, want %+v first", problems, want)
	}
}
