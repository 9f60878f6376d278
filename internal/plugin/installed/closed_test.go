package installed

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

// TestWhileClosed: the refusal of a container says more where a dead gateway keeps the pod closed.
func TestWhileClosed(t *testing.T) {
	refusal := explainPatch(apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "p", errors.New(`violates PodSecurity "restricted:latest"`)), "shop")
	type gateway struct {
		onFailure api.OnFailure
		state     corev1.ContainerState
	}
	dead, disabled := fakecluster.Terminated(137, ""), fakecluster.Terminated(0, api.DisabledMessage)
	for name, c := range map[string]struct {
		gateways []gateway
		err      error
		closed   string // the gateway that keeps the pod closed
	}{
		"no gateway":                         {nil, refusal, ""},
		"closed":                             {[]gateway{{api.FailClosed, dead}}, refusal, "kube-gateway"},
		"open":                               {[]gateway{{api.FailOpen, dead}}, refusal, ""},
		"disabled":                           {[]gateway{{api.FailClosed, disabled}}, refusal, ""},
		"closed, then open":                  {[]gateway{{api.FailClosed, dead}, {api.FailOpen, dead}}, refusal, "kube-gateway"},
		"closed, then one that never runs":   {[]gateway{{api.FailClosed, dead}, {api.FailOpen, fakecluster.Waiting("ErrImagePull", "")}}, refusal, "kube-gateway"},
		"closed, then one that never served": {[]gateway{{api.FailClosed, dead}, {api.FailClosed, fakecluster.Terminated(api.ExitUnserved, "")}}, refusal, "kube-gateway"},
		"one that never served":              {[]gateway{{api.FailClosed, fakecluster.Terminated(api.ExitUnserved, "")}}, refusal, ""},
		"closed, then disabled":              {[]gateway{{api.FailClosed, dead}, {api.FailClosed, disabled}}, refusal, ""},
		"closed, then running":               {[]gateway{{api.FailClosed, dead}, {api.FailOpen, fakecluster.Running(nil, nil)}}, refusal, ""},
		"another error":                      {[]gateway{{api.FailClosed, dead}}, errors.New("no route"), ""},
	} {
		pod := fakecluster.NewPod("p")
		for _, g := range c.gateways {
			fakecluster.AddGateway(pod, `{"version":1,"pod":{"namespace":"shop","name":"p","uid":"uid-p","serviceAccount":"default"},
				"podIPs":["10.0.0.7"],"trustDomain":"td","mode":"strict","onFailure":"`+string(g.onFailure)+`","ranges":["10.0.0.0/8"]}`, g.state)
		}
		err := WhileClosed(pod, c.err)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v is another error", name, err)
		}
		if c.closed == "" {
			if err != c.err {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !strings.HasPrefix(err.Error(), c.closed+" died and fails closed") {
			t.Errorf("%s: %v", name, err)
		}
		for _, word := range []string{"kubectl label namespace shop", "kubectl delete pod p -n shop"} {
			if !strings.Contains(api.Hint(err), word) {
				t.Errorf("%s: the hint %q lacks %q", name, api.Hint(err), word)
			}
		}
	}
}

func TestNameContainers(t *testing.T) {
	id := func(digit string) string { return strings.Repeat(digit, 64) }
	pod := fakecluster.NewPod("p")
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "new"}, {Name: "db", ContainerID: "containerd://" + id("a")}}
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", ContainerID: "cri-o://" + id("b")}}
	got := NameContainers(pod, "held in container "+id("a")+" and "+id("b")+", not "+id("c"))
	if want := "held in container db and init, not " + id("c"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
