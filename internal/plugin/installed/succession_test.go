package installed

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

func TestSuccession(t *testing.T) {
	running, pulls, ended := fakecluster.Running(nil, nil), fakecluster.Waiting("ErrImagePull", "no such tag"), fakecluster.Terminated(0, api.DisabledMessage)
	handedOver := fakecluster.Terminated(0, api.HandedOverMessage)
	const first, second, third = "kube-gateway", "kube-gateway-2", "kube-gateway-3"
	for name, test := range map[string]struct {
		// states are those of the gateways, replaces whose place each was to take.
		states                         []corev1.ContainerState
		replaces                       []string
		current, predecessor, starting string
	}{
		"alone":                          {[]corev1.ContainerState{running}, []string{""}, first, "", ""},
		"both run":                       {[]corev1.ContainerState{running, running}, []string{"", first}, second, first, ""},
		"the first has ended":            {[]corev1.ContainerState{ended, running}, []string{"", first}, second, "", ""},
		"the second starts":              {[]corev1.ContainerState{running, {}}, []string{"", first}, first, "", second},
		"the second cannot start":        {[]corev1.ContainerState{running, pulls}, []string{"", first}, first, "", second},
		"another try":                    {[]corev1.ContainerState{running, pulls, running}, []string{"", first, first}, third, first, second},
		"the first ended, none followed": {[]corev1.ContainerState{ended, pulls}, []string{"", first}, first, "", second},
		"forgotten after taking over":    {[]corev1.ContainerState{handedOver, {}}, []string{"", first}, second, "", second},
		"one after the other":            {[]corev1.ContainerState{ended, running, running}, []string{"", first, second}, third, second, ""},
		"of none":                        {[]corev1.ContainerState{running, running}, []string{"", "debugger"}, second, "", ""},
	} {
		pod := fakecluster.NewPod("p")
		for i, state := range test.states {
			fakecluster.AddGateway(pod, `{"replaces":"`+test.replaces[i]+`"}`, state)
		}
		current, _ := Current(pod)
		before, both := Predecessor(pod, current)
		starting, hopeful := Starting(pod, first)
		if current.Name != test.current || before.Name != test.predecessor || both != (test.predecessor != "") || starting.Name != test.starting {
			t.Errorf("%s: current %s, predecessor %s, starting %s", name, current.Name, before.Name, starting.Name)
		}
		if want := name == "the second starts" || name == "forgotten after taking over"; hopeful != want {
			t.Errorf("%s: hopeful %t", name, hopeful)
		}
	}
}
