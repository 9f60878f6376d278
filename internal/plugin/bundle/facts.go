package bundle

import (
	"cmp"
	"context"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
)

// podFacts returns the part of a pod that has to do with gateways. It takes what is known to be harmless
// rather than removing what is known to be not.
func podFacts(pod *corev1.Pod) any {
	facts := struct {
		Pod corev1.Pod `json:"pod"`
		// Gateways are the configurations of its gateways.
		Gateways map[string]*api.Config `json:"gateways,omitempty"`
	}{Gateways: map[string]*api.Config{}}
	facts.Pod.ObjectMeta = metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Labels: pod.Labels,
		CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp, OwnerReferences: pod.OwnerReferences}
	spec := &facts.Pod.Spec
	*spec = corev1.PodSpec{NodeName: pod.Spec.NodeName, ServiceAccountName: pod.Spec.ServiceAccountName, HostNetwork: pod.Spec.HostNetwork,
		HostPID: pod.Spec.HostPID, ShareProcessNamespace: pod.Spec.ShareProcessNamespace, RestartPolicy: pod.Spec.RestartPolicy,
		RuntimeClassName: pod.Spec.RuntimeClassName, DNSPolicy: pod.Spec.DNSPolicy, SecurityContext: pod.Spec.SecurityContext,
		PriorityClassName: pod.Spec.PriorityClassName, Resources: pod.Spec.Resources}
	spec.InitContainers, spec.Containers = lists.Map(pod.Spec.InitContainers, containerFacts), lists.Map(pod.Spec.Containers, containerFacts)
	spec.EphemeralContainers = lists.Map(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) corev1.EphemeralContainer {
		common := containerFacts(corev1.Container(c.EphemeralContainerCommon))
		return corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon(common), TargetContainerName: c.TargetContainerName}
	})
	for _, gateway := range installed.Gateways(pod) {
		if config, err := installed.ConfigOf(pod, gateway.Name); err == nil {
			facts.Gateways[gateway.Name] = config
		}
	}
	pod.Status.DeepCopyInto(&facts.Pod.Status)
	// What an application says when it ends is its own.
	for _, statuses := range [][]corev1.ContainerStatus{facts.Pod.Status.ContainerStatuses, facts.Pod.Status.InitContainerStatuses} {
		for i := range statuses {
			for _, state := range []*corev1.ContainerState{&statuses[i].State, &statuses[i].LastTerminationState} {
				if state.Terminated != nil {
					state.Terminated.Message = ""
				}
			}
		}
	}
	return facts
}

func containerFacts(c corev1.Container) corev1.Container {
	return corev1.Container{Name: c.Name, Image: c.Image, ImagePullPolicy: c.ImagePullPolicy, Ports: c.Ports, Resources: c.Resources,
		RestartPolicy: c.RestartPolicy, SecurityContext: c.SecurityContext}
}

// nodeFacts is what the API server knows of a node.
type nodeFacts struct {
	Name        string                      `json:"name"`
	PodCIDRs    []string                    `json:"podCIDRs,omitempty"`
	Taints      []corev1.Taint              `json:"taints,omitempty"`
	Capacity    corev1.ResourceList         `json:"capacity,omitempty"`
	Allocatable corev1.ResourceList         `json:"allocatable,omitempty"`
	Conditions  []corev1.NodeCondition      `json:"conditions,omitempty"`
	Addresses   []corev1.NodeAddress        `json:"addresses,omitempty"`
	NodeInfo    corev1.NodeSystemInfo       `json:"nodeInfo"`
	Handlers    []corev1.NodeRuntimeHandler `json:"runtimeHandlers,omitempty"`
}

func (c *Collector) node(ctx context.Context, name string) file {
	return within(ctx, c, path.Join("nodes", name+".json"), func(ctx context.Context) (*nodeFacts, error) {
		node, err := c.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		s := &node.Status
		return &nodeFacts{Name: node.Name, PodCIDRs: node.Spec.PodCIDRs, Taints: node.Spec.Taints, Capacity: s.Capacity,
			Allocatable: s.Allocatable, Conditions: s.Conditions, Addresses: s.Addresses, NodeInfo: s.NodeInfo, Handlers: s.RuntimeHandlers}, nil
	})
}

// eventFacts is an event of a pod.
type eventFacts struct {
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
	Type    string    `json:"type"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Count   int32     `json:"count,omitempty"`
	// Object is the part of the pod that it is about, From who says it.
	Object string `json:"object,omitempty"`
	From   string `json:"from,omitempty"`
}

func (c *Collector) events(ctx context.Context, pod *corev1.Pod) ([]eventFacts, error) {
	list := []eventFacts{}
	options := metav1.ListOptions{FieldSelector: fields.Set{"involvedObject.uid": string(pod.UID)}.String()}
	err := pages.Each(ctx, options, c.Kube.CoreV1().Events(pod.Namespace).List, func(e *corev1.Event) {
		if e.InvolvedObject.UID != pod.UID {
			return
		}
		last := e.LastTimestamp.Time
		if last.IsZero() {
			last = e.EventTime.Time
		}
		list = append(list, eventFacts{First: e.FirstTimestamp.Time, Last: last, Type: e.Type, Reason: e.Reason, Message: e.Message,
			Count: e.Count, Object: e.InvolvedObject.FieldPath, From: cmp.Or(e.ReportingController, e.Source.Component)})
	})
	return list, err
}
