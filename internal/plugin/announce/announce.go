// Package announce shows at pods, for kubectl, what became of their gateways: by events, and by a label with the mode.
// Both are for people: nothing is decided by them, and who may not write them works all the same.
package announce

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Component is who reports events.
const Component = "kubectl-gateway"

const (
	// perSecond bounds the events of one command, burst how many may come at once. Those beyond are dropped: what is
	// printed and logged has them.
	perSecond = 10
	burst     = 200
	// maxMessage bounds a message (k8s.io/kubernetes, pkg/apis/core/validation/events.go: NoteLengthLimit).
	maxMessage = 1024
	// writeTimeout bounds one request, and flushTimeout the end.
	writeTimeout = 5 * time.Second
	flushTimeout = 5 * time.Second
	queueLength  = 256
)

// Reason of an event, in a word.
type Reason string

const (
	Enabled  Reason = "GatewayEnabled"
	Disabled Reason = "GatewayDisabled"
	Replaced Reason = "GatewayReplaced"
	Renewed  Reason = "GatewayRenewed"
	Changed  Reason = "GatewayChanged"
	Failed   Reason = "GatewayFailed"
	Refused  Reason = "GatewayRefused"
)

// kind is the type of an event.
func (r Reason) kind() string {
	if r == Failed || r == Refused {
		return corev1.EventTypeWarning
	}
	return corev1.EventTypeNormal
}

// Poster writes events, one after another, while others go on.
type Poster struct {
	client  kubernetes.Interface
	limiter flowcontrol.PassiveRateLimiter
	queue   chan *corev1.Event
	done    chan struct{}
}

// NewPoster returns a Poster that works until Close.
func NewPoster(client kubernetes.Interface) *Poster {
	p := &Poster{client: client, limiter: flowcontrol.NewTokenBucketPassiveRateLimiter(perSecond, burst),
		queue: make(chan *corev1.Event, queueLength), done: make(chan struct{})}
	go p.work()
	return p
}

// Post has an event about a pod written. It never waits, and must not be called after Close.
func (p *Poster) Post(namespace, pod string, uid types.UID, reason Reason, message string) {
	if !p.limiter.TryAccept() {
		return
	}
	if runes := []rune(api.OneLine(message)); len(runes) > maxMessage/4 {
		// A rune has four bytes at most.
		message = string(runes[:maxMessage/4-1]) + "…"
	}
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%.200s.%x", pod, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: namespace, Name: pod, UID: uid},
		Reason:         string(reason), Message: api.OneLine(message), Type: reason.kind(),
		Source: corev1.EventSource{Component: Component}, ReportingController: Component,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	select {
	case p.queue <- event:
	default:
	}
}

func (p *Poster) work() {
	defer close(p.done)
	forbidden := map[string]bool{}
	for event := range p.queue {
		if forbidden[event.Namespace] {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
		_, err := p.client.CoreV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{})
		cancel()
		forbidden[event.Namespace] = apierrors.IsForbidden(err)
	}
}

// Close waits for the events that were posted, for a moment.
func (p *Poster) Close() {
	close(p.queue)
	select {
	case <-p.done:
	case <-time.After(flushTimeout):
	}
}

// Marker labels pods with the mode of their gateways. A nil Marker does nothing.
type Marker struct {
	client kubernetes.Interface
	// forbidden are the namespaces whose pods may not be patched.
	forbidden sync.Map
}

// NewMarker returns a Marker of pods that client has.
func NewMarker(client kubernetes.Interface) *Marker { return &Marker{client: client} }

// Label gives pod the label api.LabelMode, or takes it away if mode is empty. pod is as it was last seen.
func (m *Marker) Label(ctx context.Context, pod *corev1.Pod, mode api.Mode) {
	if m == nil || pod.Labels[api.LabelMode] == string(mode) {
		return
	}
	if _, no := m.forbidden.Load(pod.Namespace); no {
		return
	}
	var value any
	switch mode {
	case api.Strict, api.Permissive:
		value = mode
	case "":
	default:
		return // a gateway may say anything
	}
	// The UID keeps it from another pod of the name.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "labels": map[string]any{api.LabelMode: value}}})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if _, err := m.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}); apierrors.IsForbidden(err) {
		m.forbidden.Store(pod.Namespace, true)
	}
}
