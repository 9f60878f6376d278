//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/execstreams"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

const (
	maxNodes    = 100
	podsPerNode = 200
	// retry is a kubelet's pause before it tries again to start a container.
	retry = 2 * time.Second
)

// kubelets are those of all nodes, behind one address.
type kubelets struct {
	plan     plan
	server   *server
	gateways *gateways
	port     int32
	// clients are those of the nodes, by name: the API server decides what a node may read.
	clients map[string]kubernetes.Interface
	mu      sync.Mutex
	// begun are the containers that are started, by the pod's UID and their names.
	begun map[string]bool
}

// startKubelets makes nodes and follows what happens to their pods, until ctx ends.
func startKubelets(ctx context.Context, s *server, p plan) (*kubelets, error) {
	config, err := s.authority.kubeletTLS()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return nil, err
	}
	k := &kubelets{plan: p, server: s, gateways: newGateways(), clients: map[string]kubernetes.Interface{}, begun: map[string]bool{},
		port: int32(listener.Addr().(*net.TCPAddr).Port)}
	web := &http.Server{Handler: k, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { web.Close() })
	go func() { _ = web.ServeTLS(listener, "", "") }() // it ends by Close
	for i := range p.Nodes {
		if err := k.join(ctx, i); err != nil {
			return nil, err
		}
	}
	pods := coreinformers.NewPodInformer(s.admin, metav1.NamespaceAll, 0, nil)
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(now any) { k.changed(ctx, now.(*corev1.Pod)) },
		UpdateFunc: func(_, now any) { k.changed(ctx, now.(*corev1.Pod)) },
		DeleteFunc: func(gone any) {
			if pod, ok := gone.(*corev1.Pod); ok {
				k.gateways.forget(pod.UID)
			}
		},
	}); err != nil {
		return nil, err
	}
	go pods.RunWithContext(ctx)
	return k, nil
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// join adds node i.
func (k *kubelets) join(ctx context.Context, i int) error {
	name := nodeName(i)
	config, err := k.server.config("system:node:"+name, "system:nodes")
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	k.clients[name] = client
	ranges := fmt.Sprintf("10.244.%d.0/24", i)
	_, err = k.server.admin.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDR: ranges, PodCIDRs: []string{ranges}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("198.18.%d.1", i)}, {Type: corev1.NodeExternalDNS, Address: kubeletName},
			},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: k.port}},
			Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}, metav1.CreateOptions{})
	return err
}

// changed has what a pod lacks started.
func (k *kubelets) changed(ctx context.Context, pod *corev1.Pod) {
	if pod.Status.Phase == corev1.PodPending && k.begin(pod, "") {
		go k.startPod(ctx, pod)
	}
	for i := range pod.Spec.EphemeralContainers {
		if container := &pod.Spec.EphemeralContainers[i]; k.begin(pod, container.Name) {
			go k.startContainer(ctx, pod, container)
		}
	}
}

// begin reports whether a container of pod was not begun before.
func (k *kubelets) begin(pod *corev1.Pod, container string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := string(pod.UID) + "/" + container
	if k.begun[key] {
		return false
	}
	k.begun[key] = true
	return true
}

// startPod reports that the pod runs, with the address that its name has.
func (k *kubelets) startPod(ctx context.Context, pod *corev1.Pod) {
	var number, node int
	_, _ = fmt.Sscanf(pod.Name[strings.LastIndex(pod.Name, "-")+1:], "%d", &number)
	_, _ = fmt.Sscanf(pod.Spec.NodeName, "node-%d", &node)
	ip, now := fmt.Sprintf("10.244.%d.%d", node, 2+number/k.plan.Nodes), metav1.Now()
	k.report(ctx, pod, corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, StartTime: &now,
		HostIP: fmt.Sprintf("198.18.%d.1", node), HostIPs: []corev1.HostIP{{IP: fmt.Sprintf("198.18.%d.1", node)}},
		Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "app", Image: "app", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}},
	})
}

// startContainer does what a kubelet does: it tries until it can start the container.
func (k *kubelets) startContainer(ctx context.Context, pod *corev1.Pod, container *corev1.EphemeralContainer) {
	slow := rand.Float64() < k.plan.Slow
	for pause := k.plan.Start; ; pause = retry {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		env, err := k.environment(ctx, pod, container)
		if slow {
			slow, err = false, fmt.Errorf("failed to sync secret cache: timed out waiting for the condition")
		}
		if err == nil {
			err = k.gateways.start(pod, container.Name, env)
		}
		state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
		if err != nil {
			state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: err.Error()}}
		}
		if !k.report(ctx, pod, corev1.PodStatus{EphemeralContainerStatuses: []corev1.ContainerStatus{{Name: container.Name, Image: container.Image, State: state}}}) || err == nil {
			return
		}
	}
}

// environment returns the container's, whose Secrets the node reads.
func (k *kubelets) environment(ctx context.Context, pod *corev1.Pod, container *corev1.EphemeralContainer) (map[string][]byte, error) {
	env := map[string][]byte{}
	var secret *corev1.Secret
	for _, e := range container.Env {
		if e.ValueFrom == nil {
			env[e.Name] = []byte(e.Value)
			continue
		}
		ref := e.ValueFrom.SecretKeyRef
		if secret == nil {
			var err error
			if secret, err = k.clients[pod.Spec.NodeName].CoreV1().Secrets(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{}); err != nil {
				return nil, err
			}
		}
		env[e.Name] = secret.Data[ref.Key]
	}
	return env, nil
}

// report writes the status of pod, and returns false if there is no such pod.
func (k *kubelets) report(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) bool {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err == nil {
		_, err = k.clients[pod.Spec.NodeName].CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	return err == nil
}

// ServeHTTP runs commands in containers, /exec/NAMESPACE/POD/CONTAINER, and forwards ports, /portForward/NAMESPACE/POD.
func (k *kubelets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	words := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(words) == 3 && words[0] == "portForward" {
		execstreams.Forward(w, r, func(_ string, conn net.Conn) {
			k.gateways.serveStatus(types.NamespacedName{Namespace: words[1], Name: words[2]}, conn)
		})
		return
	}
	if len(words) != 4 || words[0] != "exec" {
		http.NotFound(w, r)
		return
	}
	ref := remote.Ref{Namespace: words[1], Pod: words[2], Container: words[3]}
	if !k.gateways.runs(ref) {
		http.Error(w, "container not found (\""+ref.Container+"\")", http.StatusNotFound)
		return
	}
	execstreams.Serve(w, r, func(stdin io.Reader, stdout, stderr io.Writer) metav1.Status {
		return k.gateways.run(r.Context(), ref, stdin, stdout, stderr, r.URL.Query()["command"])
	})
}
