package inject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// enabledPod returns a cluster whose pod p has a gateway of image gateway:v1, an injector that
// replaces it by gateway:v2, and the gateways.
func enabledPod(t *testing.T, delivery Delivery) (*fakecluster.Cluster, *Injector, *fakegateway.Line) {
	t.Helper()
	c, in := newCluster(t)
	line := &fakegateway.Line{Pod: c.Pod, SetState: c.SetState, Roots: in.Authority.Roots()}
	in.Gateways = fakegateway.Gateways(line.Answer).Client(c)
	in.Options.Delivery = delivery
	must.Do(t, in.Enable(t.Context(), c.Pod("p")).Err)
	line.Asked()
	in.Options.Image, in.Options.Delivery = "gateway:v2", ""
	// They are those of the gateway that runs.
	in.Options.Mode, in.Options.Rules, in.Options.Wire, in.Options.OnFailure, in.Options.Named = "", api.Rules{}, "", "", api.Coverage{}
	return c, in, line
}

// expectStates checks the phase of each gateway of p.
func expectStates(t *testing.T, c *fakecluster.Cluster, want ...installed.Phase) {
	t.Helper()
	var states []installed.Phase
	for _, g := range installed.Gateways(c.Pod("p")) {
		states = append(states, g.Phase)
	}
	expect.Equal(t, "the gateways of the pod", want, states)
}

func TestReplace(t *testing.T) {
	for _, delivery := range []Delivery{DeliverySecret, DeliveryCSR} {
		t.Run(string(delivery), func(t *testing.T) {
			c, in, line := enabledPod(t, delivery)
			before := must.Get(installed.ConfigOf(c.Pod("p"), "kube-gateway"))(t)
			result := in.Replace(t.Context(), c.Pod("p"))
			if result.Err != nil || result.Action != Replaced || result.Container != "kube-gateway-2" || result.Predecessor != "kube-gateway" ||
				result.Was.Version != "v1" || result.Status.Version != "v2" || result.Status.State != api.Ready || len(result.Warnings) != 0 {
				t.Fatalf("%+v", result)
			}
			after := must.Get(installed.ConfigOf(c.Pod("p"), "kube-gateway-2"))(t)
			before.Replaces, before.Number = "kube-gateway", 2
			expect.Equal(t, "what the new gateway was given", before, after)
			expectStates(t, c, installed.Terminated, installed.Running)
			expect.Equal(t, "it reads a Secret", delivery == DeliverySecret, installed.ReadsSecret(c.Pod("p"), "kube-gateway-2"))
			noSecrets(t, c)
			want := []string{"kube-gateway hand-over", "kube-gateway hand-over", "kube-gateway-2 take-over"}
			if delivery == DeliveryCSR {
				want = slices.Insert(want, 1, "kube-gateway-2 renew")
			}
			expect.Equal(t, "commands", want, line.Asked())
			// A second time there is nothing to do.
			expectResult(t, in.Replace(t.Context(), c.Pod("p")), Unchanged, "kube-gateway-2")
			in.Options.Succession.Force = true
			expectResult(t, in.Replace(t.Context(), c.Pod("p")), "", "kube-gateway-3")
		})
	}
}

// TestReplaceKeepsWhatIsInForce, not what the gateway was given at first.
func TestReplaceKeepsWhatIsInForce(t *testing.T) {
	c, in, line := enabledPod(t, DeliveryCSR)
	named := api.Coverage{ExcludePorts: []uint16{22}, Outside: api.OutsideRefuse}
	line.Status("p", "kube-gateway", func(s *api.Status) {
		s.Mode, s.Rules = api.Strict, api.Rules{Allow: []string{"ns/new/sa/*"}, Audit: true}
		s.Capture.Named, s.Capture.Coverage = named, in.Survey.For(c.Pod("p"), named)
		s.Capture.Fingerprint = s.Capture.Coverage.Fingerprint()
	})
	result := in.Replace(t.Context(), c.Pod("p"))
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	config := must.Get(installed.ConfigOf(c.Pod("p"), "kube-gateway-2"))(t)
	if config.Mode != api.Strict || !config.Rules.Equal(api.Rules{Allow: []string{"ns/new/sa/*"}, Audit: true}) || config.OnFailure != api.FailOpen ||
		config.Named.Fingerprint() != named.Fingerprint() || config.Coverage.Fingerprint() != in.Survey.For(c.Pod("p"), named).Fingerprint() {
		t.Errorf("%+v", config)
	}
	// Without a survey what is captured stays.
	in.Survey, in.Options.Image = nil, "gateway:v3"
	must.Do(t, in.Replace(t.Context(), c.Pod("p")).Err)
	if last := must.Get(installed.ConfigOf(c.Pod("p"), "kube-gateway-3"))(t); last.Coverage.Fingerprint() != config.Coverage.Fingerprint() {
		t.Errorf("%+v", last.Coverage)
	}
}

// TestSuccessorHasEverySetting: a setting that is added to api.Config is kept, or is told here why
// it is not.
func TestSuccessorHasEverySetting(t *testing.T) {
	_, in := newCluster(t)
	var old api.Config
	fill(reflect.ValueOf(&old).Elem())
	old.Existing = api.ExistingLeave
	s := &succession{Injector: *in, pod: fakecluster.NewPod("p"), old: installed.Gateway{Name: "kube-gateway"}, config: &old,
		status: &api.Status{Mode: old.Mode, Rules: old.Rules, Capture: api.Capture{Named: old.Named, Coverage: old.Coverage, Fingerprint: old.Coverage.Fingerprint()}}}
	s.Survey = nil
	want := old
	base := in.configFor(s.pod)
	// Who the gateway is, and whose place it takes.
	want.Version, want.Pod, want.PodIPs, want.TrustDomain, want.Replaces = base.Version, base.Pod, base.PodIPs, base.TrustDomain, "kube-gateway"
	// It does not come with the pod.
	want.Sidecar = false
	// What the pod has room for.
	want.LogTotal = base.LogTotal
	got := s.configAfter()
	expect.Equal(t, "settings", &want, got)
	own := old
	own.TrustDomain = got.TrustDomain
	own.Version, own.Pod = got.Version, got.Pod
	if !sameSettings(&own, got) {
		t.Error("a gateway with the same settings counts as another one")
	}
}

// fill gives every field of v a value other than zero.
func fill(v reflect.Value) {
	switch at := v.Addr().Interface().(type) {
	case *netip.Addr:
		*at = netip.MustParseAddr("192.0.2.7")
		return
	case *netip.AddrPort:
		*at = netip.MustParseAddrPort("192.0.2.7:7")
		return
	case *netip.Prefix:
		*at = netip.MustParsePrefix("192.0.2.0/24")
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint16, reflect.Uint64, reflect.Uint8:
		v.SetUint(7)
	default:
		panic("no value for a " + v.Kind().String())
	}
}

func TestReplaceChanges(t *testing.T) {
	c, in, _ := enabledPod(t, DeliveryCSR)
	in.Options.Image = "gateway:v1"
	in.Options.Succession.Change = func(c *api.Config) { c.OnFailure, c.Named.ExcludePorts = api.FailClosed, []uint16{99} }
	expectResult(t, in.EnableOrReplace(t.Context(), c.Pod("p")), Replaced, "")
	config := must.Get(installed.ConfigOf(c.Pod("p"), "kube-gateway-2"))(t)
	if config.OnFailure != api.FailClosed || !slices.Contains(config.ExcludePorts, 99) || config.Mode != api.Permissive {
		t.Errorf("%+v", config)
	}
	expectResult(t, in.EnableOrReplace(t.Context(), c.Pod("p")), Unchanged, "")
	in.Options.Succession.Redeliver, in.Options.Delivery = true, DeliverySecret
	in.Options.Succession.Change = func(c *api.Config) { c.Existing, c.Wire = api.ExistingReset, api.WirePort }
	if result := in.EnableOrReplace(t.Context(), c.Pod("p")); result.Err != nil || !installed.ReadsSecret(c.Pod("p"), "kube-gateway-3") {
		t.Errorf("delivered otherwise: %+v", result)
	}
	// Connections of the gateway before are none to reset.
	if config := must.Get(installed.ConfigOf(c.Pod("p"), "kube-gateway-3"))(t); config.Existing != api.ExistingReport || config.Wire != api.WirePort {
		t.Errorf("%+v", config)
	}
}

func TestEnableOrReplaceEnables(t *testing.T) {
	c, in := newCluster(t)
	line := &fakegateway.Line{Pod: c.Pod, SetState: c.SetState, Roots: in.Authority.Roots()}
	in.Gateways = fakegateway.Gateways(line.Answer).Client(c)
	in.Options.Succession.Change = func(*api.Config) { t.Error("there is nothing to change") }
	expectResult(t, in.EnableOrReplace(t.Context(), c.Pod("p")), Enabled, "")
	if result := in.Replace(t.Context(), fakecluster.NewPod("q")); result.Err == nil || result.Action != Failed {
		t.Errorf("a pod without a gateway: %+v", result)
	}
}

func TestReplaceByVersion(t *testing.T) {
	c, in, _ := enabledPod(t, DeliveryCSR)
	in.Options.Image = "gateway:v1"
	for version, want := range map[string]Action{"": Unchanged, "v1": Unchanged, "v9": Replaced} {
		in.Options.Succession.Version, in.Options.DryRun = version, installed.DryRunServer
		if result := in.Replace(t.Context(), c.Pod("p")); result.Err != nil || result.Action != want {
			t.Errorf("version %q: %+v", version, result)
		}
	}
	expect.Equal(t, "containers, after a dry run", 1, len(c.Added()))
}

// TestReplaceFails: whatever goes wrong before the take-over, the old gateway serves.
func TestReplaceFails(t *testing.T) {
	for name, test := range map[string]struct {
		break_ func(*fakecluster.Cluster, *Injector, *fakegateway.Line)
		want   string
		hint   string
		states []installed.Phase
		// again says that another attempt goes on with the same container.
		again []installed.Phase
	}{
		"no image": {
			func(c *fakecluster.Cluster, _ *Injector, _ *fakegateway.Line) {
				c.Kubelet = func(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState {
					return fakecluster.Waiting("ErrImagePull", "no such tag")
				}
			},
			"container kube-gateway-2 cannot start: ErrImagePull: no such tag; kube-gateway serves as before", "--image",
			[]installed.Phase{installed.Running, installed.Waiting}, []installed.Phase{installed.Terminated, installed.Waiting, installed.Running},
		},
		"it dies": {
			func(c *fakecluster.Cluster, _ *Injector, _ *fakegateway.Line) {
				c.Kubelet = func(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState {
					return fakecluster.Terminated(1, "no cgroup\nhint: mount it")
				}
			},
			"container kube-gateway-2 ended with exit code 1: no cgroup; kube-gateway serves as before", "mount it",
			[]installed.Phase{installed.Running, installed.Terminated}, []installed.Phase{installed.Terminated, installed.Terminated, installed.Running},
		},
		"too old": {
			func(_ *fakecluster.Cluster, _ *Injector, l *fakegateway.Line) {
				l.Before = refuseOnce("hand-over", fakegateway.Refuse(`unknown control command "hand-over"`))
			},
			"too old to hand over", "disable pod/p -n shop",
			[]installed.Phase{installed.Running}, []installed.Phase{installed.Terminated, installed.Running},
		},
		"refused": {
			func(c *fakecluster.Cluster, _ *Injector, l *fakegateway.Line) {
				l.Before = func(call *fakegateway.Call) error {
					if call.Op() != "take-over" {
						return nil
					}
					l.Before = nil
					c.SetState("p", call.Container, fakecluster.Terminated(1, "error: no proof"))
					return fakegateway.Refuse("no proof")
				}
			},
			"kube-gateway-2 did not take over from kube-gateway: no proof; kube-gateway serves as before", "",
			[]installed.Phase{installed.Running, installed.Terminated}, []installed.Phase{installed.Terminated, installed.Terminated, installed.Running},
		},
		"never to be ready": {
			func(_ *fakecluster.Cluster, in *Injector, l *fakegateway.Line) {
				in.Options.Timeout = 50 * time.Millisecond
				l.Before = func(call *fakegateway.Call) error {
					if call.Container == "kube-gateway-2" && call.Op() == "status" {
						l.Before = nil
						in.Options.Timeout = expect.Patience
						time.Sleep(100 * time.Millisecond)
						return errors.New("broken off")
					}
					return nil
				}
			},
			"kube-gateway serves as before", "",
			[]installed.Phase{installed.Running, installed.Running}, []installed.Phase{installed.Terminated, installed.Running},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, in, line := enabledPod(t, DeliveryCSR)
			test.break_(c, in, line)
			result := in.Replace(t.Context(), c.Pod("p"))
			expect.Error(t, result.Err, test.want)
			if result.Action != Failed || !strings.Contains(api.Hint(result.Err), test.hint) {
				t.Errorf("%s, hint %q", result.Action, api.Hint(result.Err))
			}
			expectStates(t, c, test.states...)
			if s := line.Status("p", "kube-gateway", nil); s.State != api.Ready {
				t.Errorf("the old gateway is %s", s.State)
			}
			if serving, _ := in.Gateways.Serving(t.Context(), c.Pod("p")); serving.Name != "kube-gateway" {
				t.Errorf("%s answers", serving.Name)
			}
			c.Kubelet = fakecluster.Running
			expectResult(t, in.Replace(t.Context(), c.Pod("p")), Replaced, "")
			expectStates(t, c, test.again...)
		})
	}
}

// refuseOnce has the first use of a command fail.
func refuseOnce(op string, err error) func(*fakegateway.Call) error {
	done := false
	return func(call *fakegateway.Call) error {
		if done || call.Op() != op {
			return nil
		}
		done = true
		return err
	}
}

// TestTakeOverThatBrokeOff is found out about.
func TestTakeOverThatBrokeOff(t *testing.T) {
	lost := errors.New("connection reset")
	for name, lose := range map[string]func(*fakegateway.Line){
		"behind the change": func(l *fakegateway.Line) { l.After = refuseOnce("take-over", lost) },
		"before it":         func(l *fakegateway.Line) { l.Before = refuseOnce("take-over", lost) },
	} {
		t.Run(name, func(t *testing.T) {
			c, in, line := enabledPod(t, DeliveryCSR)
			lose(line)
			result := expectResult(t, in.Replace(t.Context(), c.Pod("p")), "", "kube-gateway-2")
			expect.Equal(t, "state", api.Ready, result.Status.State)
		})
	}
	t.Run("and nobody answers", func(t *testing.T) {
		c, in, line := enabledPod(t, DeliveryCSR)
		broken := false
		line.Before = func(call *fakegateway.Call) error {
			if broken = broken || call.Op() == "take-over"; broken {
				return lost
			}
			return nil
		}
		result := in.Replace(t.Context(), c.Pod("p"))
		expect.Error(t, result.Err, "which gateway serves is not known")
		if strings.Contains(result.Err.Error(), "as before") {
			t.Error("more is said than is known")
		}
		line.Before = nil
		expectResult(t, in.Replace(t.Context(), c.Pod("p")), "", "kube-gateway-2")
	})
}

// TestReplaceInterrupted leaves a gateway that stands by, with which the next one goes on.
func TestReplaceInterrupted(t *testing.T) {
	c, in, line := enabledPod(t, DeliveryCSR)
	result := leaveInStandby(t, c, in, line)
	expect.Error(t, result.Err, "interrupted; container kube-gateway-2 was added and stays")
	expectStates(t, c, installed.Running, installed.Running)
	// Who is to change something meanwhile finds the gateway that serves.
	if serving, _ := in.Gateways.Serving(t.Context(), c.Pod("p")); serving.Name != "kube-gateway" {
		t.Errorf("%s answers", serving.Name)
	}
	expectResult(t, in.Enable(t.Context(), c.Pod("p")), Unchanged, "kube-gateway")
	expectResult(t, in.Replace(t.Context(), c.Pod("p")), "", "kube-gateway-2")
	expectStates(t, c, installed.Terminated, installed.Running)
}

// leaveInStandby interrupts a Replace whose new gateway has just got its certificate.
func leaveInStandby(t *testing.T, c *fakecluster.Cluster, in *Injector, line *fakegateway.Line) Result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	line.After = func(call *fakegateway.Call) error {
		if call.Op() == "renew" {
			cancel()
		}
		return nil
	}
	defer func() { line.After = nil }()
	return in.Replace(ctx, c.Pod("p"))
}

// TestStandbyWithOtherSettings is ended: what was changed meanwhile holds.
func TestStandbyWithOtherSettings(t *testing.T) {
	for name, change := range map[string]func(*Injector, *fakegateway.Line){
		"settings": func(_ *Injector, l *fakegateway.Line) {
			l.Status("p", "kube-gateway", func(s *api.Status) { s.Mode = api.Strict })
		},
		"image": func(in *Injector, _ *fakegateway.Line) { in.Options.Image = "gateway:v3" },
	} {
		t.Run(name, func(t *testing.T) {
			c, in, line := enabledPod(t, DeliveryCSR)
			leaveInStandby(t, c, in, line)
			change(in, line)
			expectResult(t, in.Replace(t.Context(), c.Pod("p")), "", "kube-gateway-3")
			expectStates(t, c, installed.Terminated, installed.Terminated, installed.Running)
		})
	}
}

// TestSettingsThatChangeWhileTheNewGatewayStarts are not lost.
func TestSettingsThatChangeWhileTheNewGatewayStarts(t *testing.T) {
	c, in, line := enabledPod(t, DeliveryCSR)
	changed := false
	line.After = func(call *fakegateway.Call) error {
		if call.Op() == "renew" && !changed {
			changed = true
			line.Status("p", "kube-gateway", func(s *api.Status) { s.Mode = api.Strict })
		}
		return nil
	}
	result := expectResult(t, in.Replace(t.Context(), c.Pod("p")), "", "kube-gateway-3")
	expect.Equal(t, "mode", api.Strict, result.Status.Mode)
}

// TestNoThirdGateway: one that drains ends first.
func TestNoThirdGateway(t *testing.T) {
	c, in, line := enabledPod(t, DeliveryCSR)
	line.Drains = true
	must.Do(t, in.Replace(t.Context(), c.Pod("p")).Err)
	expectStates(t, c, installed.Running, installed.Running)
	in.Options.Image, in.Options.Timeout = "gateway:v3", 50*time.Millisecond
	result := in.Replace(t.Context(), c.Pod("p"))
	expect.Error(t, result.Err, "kube-gateway, from before kube-gateway-2, still drains its connections")
	expect.Equal(t, "containers", 2, len(c.Added()))
	in.Options.Timeout = expect.Patience
	time.AfterFunc(20*time.Millisecond, func() { c.SetState("p", "kube-gateway", fakecluster.Terminated(0, api.DisabledMessage)) })
	expectResult(t, in.Replace(t.Context(), c.Pod("p")), "", "kube-gateway-3")
}

// TestStandbyWhosePredecessorEnded sees that and serves by itself, or enable adds another one.
func TestStandbyWhosePredecessorEnded(t *testing.T) {
	for container, states := range map[string][]installed.Phase{
		"kube-gateway-2": {installed.Terminated, installed.Running},
		"kube-gateway-3": {installed.Terminated, installed.Terminated, installed.Running},
	} {
		t.Run("followed by "+container, func(t *testing.T) {
			c, in, line := enabledPod(t, DeliveryCSR)
			leaveInStandby(t, c, in, line)
			c.SetState("p", "kube-gateway", fakecluster.Terminated(137, ""))
			in.Options.Mode, in.Options.OnFailure, in.Options.Delivery = api.Permissive, api.FailOpen, DeliveryCSR
			if container == "kube-gateway-2" {
				time.AfterFunc(aloneInterval, func() { line.Status("p", container, func(s *api.Status) { s.State = api.Ready }) })
			}
			result := expectResult(t, in.Enable(t.Context(), c.Pod("p")), Enabled, container)
			expect.Equal(t, "state", api.Ready, result.Status.State)
			expectStates(t, c, states...)
		})
	}
}

func TestReplaceRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*fakecluster.Cluster, *Injector, *fakegateway.Line)
		want   error
	}{
		"draining": {func(_ *fakecluster.Cluster, _ *Injector, l *fakegateway.Line) {
			l.Status("p", "kube-gateway", func(s *api.Status) { s.State = api.Draining })
		}, ErrNotReady},
		"starting": {func(_ *fakecluster.Cluster, _ *Injector, l *fakegateway.Line) {
			l.Status("p", "kube-gateway", func(s *api.Status) { s.State = api.Starting })
		}, ErrNotReady},
		"other addresses": {func(c *fakecluster.Cluster, _ *Injector, _ *fakegateway.Line) {
			pod := c.Pod("p")
			pod.Status.PodIP, pod.Status.PodIPs = "10.244.1.99", nil
			c.Update(pod)
		}, ErrOtherAddresses},
		"trust domain": {func(c *fakecluster.Cluster, _ *Injector, _ *fakegateway.Line) {
			pod := c.Pod("p")
			env := &pod.Spec.EphemeralContainers[0].Env[0]
			env.Value = strings.Replace(env.Value, `"cluster.local"`, `"other.example"`, 1)
			c.Update(pod)
		}, ErrOtherTrustDomain},
		"another pod": {func(_ *fakecluster.Cluster, _ *Injector, l *fakegateway.Line) {
			l.Status("p", "kube-gateway", func(s *api.Status) { s.Pod.UID = "uid-q" })
		}, remote.ErrOtherPod},
	} {
		t.Run(name, func(t *testing.T) {
			c, in, line := enabledPod(t, DeliveryCSR)
			test.change(c, in, line)
			result := in.Replace(t.Context(), c.Pod("p"))
			if !errors.Is(result.Err, test.want) || len(c.Added()) != 1 {
				t.Errorf("%v, %d containers", result.Err, len(c.Added()))
			}
		})
	}
}

// TestReplaceOfADeadGateway: a busy kubelet still shows it as running.
func TestReplaceOfADeadGateway(t *testing.T) {
	c, in, _ := enabledPod(t, DeliveryCSR)
	in.Gateways = fakegateway.Gateways(func(context.Context, *fakegateway.Call) (any, error) {
		c.SetState("p", "kube-gateway", fakecluster.Terminated(137, ""))
		return nil, &remote.UnheardError{Err: errors.New("no running task found")}
	}).Client(c)
	in.Gateways.Notice = expect.Patience
	result := in.Replace(t.Context(), c.Pod("p"))
	expect.Refusal(t, "replacing", result.Err, nil, "the gateway does not run: container kube-gateway is terminated", "adds one")
}

func TestManyContainers(t *testing.T) {
	c, in, _ := enabledPod(t, DeliveryCSR)
	in.Options.Succession.Force = true
	var last Result
	for range installed.ManyContainers - 2 {
		if last = in.Replace(t.Context(), c.Pod("p")); last.Err != nil {
			t.Fatal(last.Err)
		}
	}
	expect.Equal(t, "early warnings", nil, last.Warnings)
	if last = in.Replace(t.Context(), c.Pod("p")); last.Err != nil || !strings.Contains(fmt.Sprint(last.Warnings), "the pod has had 20 gateways") {
		t.Errorf("%+v", last)
	}
}

// TestDryRunOfReplace shows what would be sent.
func TestDryRunOfReplace(t *testing.T) {
	c, in, line := enabledPod(t, DeliverySecret)
	in.Options.DryRun = installed.DryRunServer
	result := in.Replace(t.Context(), c.Pod("p"))
	if result.Err != nil || result.Patch == nil || result.Secret == nil || result.Container != "kube-gateway-2" || result.Predecessor != "kube-gateway" || len(c.Added()) != 1 {
		t.Fatalf("%+v", result)
	}
	var config api.Config
	must.Do(t, json.Unmarshal([]byte(result.Patch.Spec.EphemeralContainers[0].Env[0].Value), &config))
	if config.Replaces != "kube-gateway" || len(line.Asked()) != 0 {
		t.Errorf("%+v", config)
	}
}
