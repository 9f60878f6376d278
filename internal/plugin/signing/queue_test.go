package signing

import (
	"fmt"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestAskersTakeTurns: a flood of one holds up nobody else's requests, whomever it says to be.
func TestAskersTakeTurns(t *testing.T) {
	q := newQueue()
	t.Cleanup(q.ShutDown)
	pod := func(namespace, name string) {
		q.Add(must.Get(requestOf(kindPod, &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}))(t))
	}
	csr := func(user, claims, name string) {
		q.Add(must.Get(requestOf(kindCSR, &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"kubectl-gateway.github.io/pod-namespace": claims}},
			Spec:       certificatesv1.CertificateSigningRequestSpec{Username: user},
		}))(t))
	}
	for i := range 100 {
		name := fmt.Sprintf("evil-%d", i)
		pod("evil", name)
		csr("system:serviceaccount:evil:default", fmt.Sprintf("ns-%d", i), name)
		csr("shop", "shop", name) // a user, and no namespace
	}
	pod("shop", "first")
	pod("shop", "second")
	csr("alice", "shop", "third")
	pod("shop", "first")
	expect.Equal(t, "requests", 303, q.Len())
	var got []string
	for range 10 {
		r, _ := q.Get()
		got = append(got, r.kind+" "+r.key)
		q.Done(r)
	}
	expect.Equal(t, "the order", []string{
		kindPod + " evil/evil-0", kindCSR + " evil-0", kindPod + " shop/first", kindCSR + " third",
		kindCSR + " evil-0", kindCSR + " evil-1", kindPod + " shop/second",
		kindPod + " evil/evil-1", kindCSR + " evil-2", kindCSR + " evil-1",
	}, got)
	for q.Len() > 0 {
		r, _ := q.Get()
		q.Forget(r)
		q.Done(r)
	}
	pod("shop", "later")
	r, _ := q.Get()
	expect.Equal(t, "one that comes later", "shop/later of shop", r.key+" of "+r.asker)
	q.Done(r)
}
