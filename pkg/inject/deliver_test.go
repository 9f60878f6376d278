package inject

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// uncertified is a gateway that was started without a certificate.
type uncertified struct {
	// refuse is why it does not take a certificate.
	refuse error
	// before runs when it is asked for its request.
	before func()

	// signed, if not nil, gets what came of each request.
	signed chan error

	mu     sync.Mutex
	issued []fakegateway.Material
	status api.Status
}

// newUncertified has all gateways that in asks be one that waits for a certificate.
func newUncertified(in *Injector) *uncertified {
	u := &uncertified{status: api.Status{State: api.Uncertified, Pod: api.PodRef{UID: "uid-p"}}}
	in.Gateways = fakegateway.Gateways(u.answer).Client(in.Client)
	return u
}

func (u *uncertified) answer(ctx context.Context, call *fakegateway.Call) (any, error) {
	if call.Op() == "renew" {
		if u.before != nil {
			u.before()
		}
		material, err := call.Renew()
		if u.signed != nil {
			u.signed <- err
		}
		switch {
		case err != nil:
			return nil, err
		case u.refuse != nil:
			return nil, u.refuse
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.issued = append(u.issued, material)
		u.status.State, u.status.Cert = api.Ready, material.Certificate()
	} else if call.Op() != "status" {
		return nil, fmt.Errorf("a gateway was told %q", call.Words)
	} else {
		u.mu.Lock()
		defer u.mu.Unlock()
	}
	status := u.status
	return &status, nil
}

func TestEnableByCSR(t *testing.T) {
	c, in := newCluster(t)
	in.Options.Delivery = DeliveryCSR
	u := newUncertified(in)
	// Not even the right to look at Secrets is there.
	for _, verb := range []string{"create", "list", "delete", "get"} {
		c.Forbid(verb, "secrets")
	}
	result := in.Enable(t.Context(), c.Pod("p"))
	if result.Err != nil || result.Action != Enabled || len(result.Warnings) != 0 || result.Status.State != api.Ready {
		t.Fatalf("%+v", result)
	}
	if c.Did("create", "secrets") {
		t.Error("a Secret was created")
	}
	if env := c.Added()[0].Env; len(env) != 2 || env[0].Name != api.EnvConfig || env[1].Name != api.EnvStatusPort {
		t.Errorf("environment %+v", env)
	}
	if len(u.issued) != 1 || len(u.issued[0].Roots) != 1 || ca.Fingerprint(u.issued[0].Roots[0]) != in.Authority.Roots()[0] {
		t.Fatalf("%+v", u.issued)
	}
	namesThePod(t, in, u.issued[0].Chain[0])
	if again := in.Enable(t.Context(), c.Pod("p")); again.Err != nil || again.Action != Unchanged || len(u.issued) != 1 {
		t.Errorf("again: %+v, %d certificates", again, len(u.issued))
	}
}

// TestAGatewayThatWaitsForItsCertificateGetsIt whoever added it, and however.
func TestAGatewayThatWaitsForItsCertificateGetsIt(t *testing.T) {
	for _, delivery := range []Delivery{DeliveryCSR, DeliverySecret} {
		_, in, pod := started(t, fakecluster.Running(nil, nil))
		in.Options.Delivery = delivery
		u := newUncertified(in)
		if result := in.Enable(t.Context(), pod); result.Err != nil || result.Action != Enabled || result.Container != "kube-gateway" || len(u.issued) != 1 {
			t.Errorf("%s: %+v, %d certificates", delivery, result, len(u.issued))
		}
	}
}

func TestADryRunDeliversNothing(t *testing.T) {
	_, in, pod := started(t, fakecluster.Running(nil, nil))
	u := newUncertified(in)
	in.Options.DryRun = installed.DryRunServer
	if result := in.Enable(t.Context(), pod); result.Err != nil || len(u.issued) != 0 || len(result.Warnings) != 0 {
		t.Errorf("%+v, %d certificates", result, len(u.issued))
	}
	c, in := newCluster(t)
	in.Options.Delivery, in.Options.DryRun = DeliveryCSR, installed.DryRunServer
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || result.Secret != nil || result.Patch == nil || c.Did("create", "secrets") || len(c.Added()) != 0 {
		t.Errorf("%+v", result)
	}
}

func TestNothingIsSignedForAnotherPod(t *testing.T) {
	for name, change := range map[string]func(*fakecluster.Cluster, *uncertified){
		"what answers serves another": func(_ *fakecluster.Cluster, u *uncertified) { u.status.Pod.UID = "uid-q" },
		"replaced while it is asked": func(c *fakecluster.Cluster, u *uncertified) {
			u.before = func() {
				pod := c.Pod("p")
				pod.UID = types.UID("another")
				c.Update(pod)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, in, pod := started(t, fakecluster.Running(nil, nil))
			u := newUncertified(in)
			u.signed = make(chan error, 10)
			change(c, u)
			if result := in.Enable(t.Context(), pod); result.Err == nil {
				t.Errorf("%+v", result)
			}
			if u.before == nil {
				if len(u.signed) != 0 {
					t.Error("a certificate was asked for")
				}
				return
			}
			// Enable may have seen the other pod first, and not have waited.
			if err := expect.Within(t, u.signed); err == nil {
				t.Error("a certificate was issued")
			}
		})
	}
}

func TestACertificateThatIsRefused(t *testing.T) {
	_, in, pod := started(t, fakecluster.Running(nil, nil))
	newUncertified(in).refuse = api.WithHint(errors.New("the certificate is not valid yet by the clock of this node"), "set the clock")
	result := in.Enable(t.Context(), pod)
	expect.Error(t, result.Err, "giving kube-gateway its certificate: the certificate is not valid yet")
	if api.Hint(result.Err) != "set the clock" {
		t.Errorf("hint %q", api.Hint(result.Err))
	}
}

// TestAGatewayThatIsBeingDisabledIsFollowedByAnother once it has ended.
func TestAGatewayThatIsBeingDisabledIsFollowedByAnother(t *testing.T) {
	c, in, pod := started(t, fakecluster.Running(nil, nil))
	good := readyWith(in.Authority)
	in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
		if container != "kube-gateway" {
			return good(ctx, pod, container)
		}
		c.AwaitWatch()
		time.AfterFunc(10*time.Millisecond, func() { c.SetState(pod, container, fakecluster.Terminated(0, api.DisabledMessage)) })
		return &api.Status{State: api.Draining, Pod: api.PodRef{UID: "uid-p"}}, nil
	})
	expectResult(t, in.Enable(t.Context(), pod), Enabled, "kube-gateway-2")
}

// TestAfterANodesRestart has what a kubelet makes of a pod's old containers.
func TestAfterANodesRestart(t *testing.T) {
	for name, test := range map[string]struct {
		state     corev1.ContainerState
		ips       string
		container string
		err       error
	}{
		"not started again":              {fakecluster.Terminated(137, ""), "10.244.1.8", "kube-gateway-2", nil},
		"state unknown":                  {fakecluster.Terminated(137, "The container could not be located when the pod was terminated"), "10.244.1.7", "kube-gateway-2", nil},
		"its Secret is gone":             {fakecluster.Waiting("CreateContainerConfigError", `secret "some-secret" not found`), "10.244.1.8", "kube-gateway-2", nil},
		"started again, same addresses":  {fakecluster.Running(nil, nil), "10.244.1.7", "kube-gateway", nil},
		"started again, other addresses": {fakecluster.Running(nil, nil), "10.244.1.8", "kube-gateway", ErrOtherAddresses},
	} {
		t.Run(name, func(t *testing.T) {
			c, in, _ := started(t, test.state)
			pod := c.Pod("p")
			pod.Status.PodIP, pod.Status.PodIPs[0].IP = test.ips, test.ips
			c.Update(pod)
			result := in.Enable(t.Context(), c.Pod("p"))
			if !errors.Is(result.Err, test.err) || result.Container != test.container {
				t.Errorf("%+v", result)
			}
			in.Options.DryRun = installed.DryRunClient
			if result := in.Enable(t.Context(), pod); !errors.Is(result.Err, test.err) {
				t.Errorf("dry run: %+v", result)
			}
			if test.err != nil && !strings.Contains(api.Hint(result.Err), "kubectl gateway disable pod/p -n shop") {
				t.Errorf("hint %q", api.Hint(result.Err))
			}
		})
	}
}

// TestAddressesThatChangeOnTheWay are seen also when the container runs late.
func TestAddressesThatChangeOnTheWay(t *testing.T) {
	c, in, _ := started(t, fakecluster.Waiting("ContainerCreating", ""))
	done := enabling(t, c, in)
	now := c.Pod("p")
	now.Status.PodIPs = now.Status.PodIPs[:1]
	c.Update(now)
	c.SetState("p", "kube-gateway", fakecluster.Running(nil, nil))
	if result := expect.Within(t, done); !errors.Is(result.Err, ErrOtherAddresses) {
		t.Errorf("%+v", result)
	}
}

// TestACleanerIsNoGatewayToAsk when enable comes while it works.
func TestACleanerIsNoGatewayToAsk(t *testing.T) {
	c, in, pod := started(t, fakecluster.Terminated(137, ""))
	container := must.Get(installed.Cleaner(pod, "kube-gateway", "", ""))(t)
	pod = c.Pod("p")
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
	c.Update(pod)
	c.SetState("p", "kube-gateway-2", fakecluster.Running(nil, nil))
	good := readyWith(in.Authority)
	in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
		if container == "kube-gateway-2" {
			t.Error("what cleans up was asked")
		}
		return good(ctx, pod, container)
	})
	done := enabling(t, c, in)
	c.SetState("p", "kube-gateway-2", fakecluster.Terminated(0, api.DisabledMessage))
	expectResult(t, expect.Within(t, done), "", "kube-gateway-3")
}

// refusing is an issuer that is no authority of our own, and says no.
type refusing struct {
	*ca.Authority
	asked int
}

func (r *refusing) Certify(context.Context, []byte, ca.LeafRequest) (*ca.Leaf, error) {
	r.asked++
	return nil, errors.New("denied")
}

// TestASignerGetsRequestsAlone: no Secret is made, whatever the delivery, and who has refused is not asked again.
func TestASignerGetsRequestsAlone(t *testing.T) {
	c, in := newCluster(t)
	issuer := &refusing{Authority: in.Authority.(*ca.Authority)}
	in.Authority, in.Options.Delivery = issuer, DeliverySecret
	newUncertified(in)
	for _, verb := range []string{"create", "list", "delete", "get"} {
		c.Forbid(verb, "secrets")
	}
	if in.Delivery() != DeliveryCSR {
		t.Errorf("delivery %s", in.Delivery())
	}
	result := in.Enable(t.Context(), c.Pod("p"))
	if result.Err == nil || !strings.Contains(result.Err.Error(), "giving kube-gateway its certificate: issuing a certificate for the gateway of pod shop/p: denied") {
		t.Errorf("%+v", result)
	}
	if issuer.asked != 1 || c.Did("create", "secrets") {
		t.Errorf("asked %d times; a Secret was made: %v", issuer.asked, c.Did("create", "secrets"))
	}
}
