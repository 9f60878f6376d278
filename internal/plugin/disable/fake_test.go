package disable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

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
		Client: c, Options: Options{DrainTimeout: time.Second, Timeout: expect.Patience},
		Gateways: &remote.Client{Kube: c, Runner: fakegateway.Gateways(g.answer), Backoff: wait.Backoff{Steps: attempts, Duration: time.Millisecond}},
	}
}

// ends has the kubelet report the end of the gateway that is told to.
func ends(c *fakecluster.Cluster, state corev1.ContainerState, report *api.DisableReport) *gateways {
	return &gateways{uid: "uid-p", disable: func(_ context.Context, container string, _ int) (*api.DisableReport, error) {
		c.SetState("p", container, state)
		return report, nil
	}}
}
