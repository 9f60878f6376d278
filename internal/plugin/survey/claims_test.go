package survey

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// podOn is podAt on a node.
func podOn(node, name string, ips ...string) *corev1.Pod {
	pod := podAt(name, ips...)
	pod.Spec.NodeName = node
	return pod
}

// TestCheckAddresses has kubelets that tell the truth in every kind of cluster, and one, of node b,
// that puts another address into its pod's status.
func TestCheckAddresses(t *testing.T) {
	announcing := []runtime.Object{node("a", "192.168.1.1", "10.244.0.0/24", "fd00:10:244::/64"), node("b", "192.168.1.2", "10.244.1.0/24", "fd00:10:244:1::/64")}
	silent := []runtime.Object{node("a", "192.168.1.1"), node("b", "192.168.1.2")}
	// b has made up ranges for itself.
	alone := []runtime.Object{node("a", "192.168.1.1"), node("b", "192.168.1.2", "0.0.0.0/0", "::/0")}
	joined := []runtime.Object{node("a", "192.168.1.1", "10.244.0.0/24"), node("b", "192.168.1.2", "10.244.0.0/16")}
	silent3 := append(slices.Clip(announcing), node("c", "192.168.1.3"))
	finished, leaving := podOn("a", "finished", "10.244.0.7"), podOn("a", "leaving", "10.244.0.7")
	finished.Status.Phase = corev1.PodSucceeded
	leaving.DeletionTimestamp, leaving.Finalizers = new(metav1.Now()), []string{"x"}
	onHost := podOn("a", "host", "192.168.1.1")
	onHost.Spec.HostNetwork = true
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.10"}}}
	for name, test := range map[string]struct {
		cluster []runtime.Object
		others  []runtime.Object
		ips     []string
		gone    bool
		want    string
	}{
		"in its range":          {announcing, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.244.1.7", "fd00:10:244:1::7"}, false, ""},
		"whatever a says":       {announcing, []runtime.Object{podOn("a", "v", "10.244.1.7")}, []string{"10.244.1.7"}, false, ""},
		"in the range of a":     {announcing, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.244.0.8"}, false, "the pod is on b, and its address 10.244.0.8 lies in the range of the pods of a"},
		"in that of IPv6, too":  {announcing, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.244.1.7", "fd00:10:244::7"}, false, "address fd00:10:244::7 lies in the range of the pods of a"},
		"a pod's, ranges":       {announcing, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.244.0.7"}, false, "lies in the range of the pods of a"},
		"nobody follows ranges": {announcing, []runtime.Object{podOn("a", "v", "10.244.0.7"), podOn("a", "w", "10.9.0.1")}, []string{"10.244.0.8"}, false, ""},
		"b alone does not":      {announcing, []runtime.Object{podOn("a", "v", "10.244.0.7"), podOn("b", "w", "10.9.0.1")}, []string{"10.244.0.8"}, false, "lies in the range of the pods of a"},
		"no pod to tell":        {announcing, nil, []string{"10.244.0.8"}, false, ""},
		"outside of all":        {announcing, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.9.0.1"}, false, ""},
		"a pod's":               {silent, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.244.0.7"}, false, "pod/v in namespace shop has the address 10.244.0.7 as well, on a"},
		"a pod's second one":    {silent, []runtime.Object{podOn("a", "v", "10.244.0.7", "fd00::7")}, []string{"10.244.1.7", "fd00::7"}, false, "has the address fd00::7 as well"},
		"of a pod on b":         {silent, []runtime.Object{podOn("b", "v", "10.244.0.7")}, []string{"10.244.0.7"}, false, ""},
		"of one that is gone":   {silent, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.244.0.7"}, true, ""},
		"of one that finished":  {silent, []runtime.Object{finished, leaving}, []string{"10.244.0.7"}, false, ""},
		"a node's":              {silent, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"192.168.1.1"}, false, "the pod's address 192.168.1.1 is one of a"},
		"of a hostNetwork pod":  {silent, []runtime.Object{onHost}, []string{"192.168.1.1"}, false, "is one of a"},
		"its own node's":        {silent, nil, []string{"192.168.1.2"}, false, ""},
		"a made-up range":       {alone, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.244.0.7"}, false, "pod/v in namespace shop has the address 10.244.0.7 as well, on a"},
		"with a node in it":     {alone, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"192.168.1.1"}, false, "is one of a"},
		"with a Service in it":  {alone, []runtime.Object{podOn("a", "v", "10.244.0.7"), service}, []string{"10.96.0.10"}, false, "is that of Service shop/web"},
		"nobody else there":     {alone, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.244.0.8"}, false, ""},
		"a range over a's":      {joined, []runtime.Object{podOn("a", "v", "10.244.0.7")}, []string{"10.244.0.8"}, false, "lies in the range of the pods of a"},
		"whatever c says":       {silent3, []runtime.Object{podOn("c", "v", "10.244.1.7")}, []string{"10.244.1.7"}, false, ""},
		"a Service's":           {silent, []runtime.Object{service}, []string{"10.96.0.10"}, false, "is that of Service shop/web"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podOn("b", "p", test.ips...)
			client := fakecluster.New(t, slices.Concat(test.cluster, test.others, []runtime.Object{pod})...)
			s := must.Get(Run(t.Context(), client, []corev1.Pod{*pod}, api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.96.0.0/12")}))(t)
			err := s.CheckAddresses(pod, func(claim Claim, ip netip.Addr) bool { return !test.gone })
			if test.want == "" {
				must.Do(t, err)
				return
			}
			expect.Refusal(t, "it", err, nil, test.want, "b")
		})
	}
	if err := (&Survey{}).CheckAddresses(podOn("b", "p", "10.244.0.7"), nil); err != nil {
		t.Errorf("where nothing could be read: %v", err)
	}
}
