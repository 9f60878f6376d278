package inject

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// TestNodeThatLiesAboutAddresses: a pod whose kubelet says that it has the address of a pod of another
// node gets no certificate, and nothing is made for it, as long as the other one is there.
func TestNodeThatLiesAboutAddresses(t *testing.T) {
	for _, delivery := range []Delivery{DeliverySecret, DeliveryCSR} {
		victim, liar := fakecluster.NewPod("victim"), fakecluster.NewPod("p")
		liar.Spec.NodeName = "node-2"
		c := fakecluster.New(t, victim, liar,
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-2"}})
		in := newInjector(t, c)
		in.Options.Delivery = delivery
		found := in.Survey.Found
		in.Survey = must.Get(survey.Run(t.Context(), c, []corev1.Pod{*liar}, found))(t)
		in.Survey.Found = found
		result := in.Enable(t.Context(), liar)
		expect.Refusal(t, string(delivery), result.Err, nil, "pod/victim in namespace shop has the address 10.244.1.7 as well, on node-1", "node-2")
		if c.Did("create", "secrets") || c.Did("patch", "pods") {
			t.Errorf("%s: something was made: %v", delivery, c.Actions())
		}
		// The survey is old, and the address is free by now.
		must.Do(t, c.Tracker().Delete(fakecluster.Pods, "shop", "victim"))
		if delivery == DeliverySecret {
			expectResult(t, in.Enable(t.Context(), liar), Enabled, "kube-gateway")
		}
	}
}
