package status

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestWhereSettingsComeFrom of a gateway with settings of a pod, of a namespace, of a command and of nobody.
func TestWhereSettingsComeFrom(t *testing.T) {
	p := pod("p", "strict", "closed", running())
	p.Annotations = map[string]string{api.AnnotationPrefix + "log": "refused", api.AnnotationPrefix + "wire": "port", api.AnnotationPrefix + "audit": "yes", api.AnnotationPrefix + "speed": "9"}
	cluster := fakecluster.New(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.Namespace, Annotations: map[string]string{
		api.AnnotationPrefix + "mode": "strict", api.AnnotationPrefix + "log": "none", api.AnnotationPrefix + "deny": "nobody"}}})
	var fleet fakegateway.Fleet
	fleet.Set("p", api.Status{Mode: api.Strict, Wire: api.WireAuto, Rules: api.Rules{Allow: []string{"ns/a/sa/b"}, Deny: []string{"ns/c/sa/d"}}, Log: api.LogStatus{Level: api.LogRefused}})
	c := Collector{Gateways: fakegateway.Gateways(fleet.Answer).Client(nil), Now: clock, Client: cluster}
	item := must.Get(c.Collect(t.Context(), []corev1.Pod{p}))(t).Items[0]
	place := "namespace/" + p.Namespace
	expect.Equal(t, "settings", []Setting{
		{Name: "mode", Value: "strict", From: place},
		{Name: "wire", Value: "auto", From: FromDefault, Declared: &Declared{Value: "port", From: "pod"}},
		{Name: "allow", Value: "ns/a/sa/b", From: FromCommand},
		{Name: "deny", Value: "ns/c/sa/d", From: FromCommand, Declared: &Declared{Value: "nobody", From: place}},
		{Name: "audit", Value: "false", From: FromDefault, Declared: &Declared{Value: "yes", From: "pod", Error: `annotation kube-gateway.io/audit of pod: "yes" is neither true nor false`}},
		{Name: "max-connections-per-peer", Value: "0", From: FromDefault},
		{Name: "allow-plaintext-from", Value: "none", From: FromDefault},
		{Name: "log", Value: "refused", From: "pod"},
		{Name: "speed", Declared: &Declared{Value: "9", From: "pod", Error: "annotation kube-gateway.io/speed of pod: there is no such setting"}},
	}, item.Settings)
	severities := map[Severity]int{}
	for _, problem := range item.Problems {
		severities[problem.Severity]++
	}
	expect.Equal(t, "problems", map[Severity]int{Warning: 3, Note: 1}, severities)
	expect.Equal(t, "cell", "mode:"+place+",wire!pod,deny!"+place+",audit!pod,log:pod,speed!pod", item.declared().Text)

	cluster.Forbid("get", "namespaces")
	list := must.Get(c.Collect(t.Context(), []corev1.Pod{p}))(t)
	expect.Equal(t, "without a right", []Setting{{Name: "mode", Value: "strict"}}, list.Items[0].Settings[:1])
	if list.NotDeclared == "" {
		t.Error("it is not said that the namespace may not be read")
	}
}
