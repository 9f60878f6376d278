package signer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const (
	// firstLook is how long after the request the answer is looked for, and lastLook the longest
	// pause between two looks.
	firstLook = 100 * time.Millisecond
	lastLook  = 2 * time.Second
	// patience bounds the wait where the caller does not: a gateway keeps the key of a request
	// for five minutes.
	patience = 4 * time.Minute
	// margin is left of the caller's time for saying that there was no answer.
	margin = 2 * time.Second
)

// Labels and annotations of requests. A CertificateSigningRequest has no fields for the pod.
const (
	managedByLabel       = "app.kubernetes.io/managed-by"
	managedBy            = "kubectl-gateway"
	namespaceAnnotation  = "kubectl-gateway.github.io/pod-namespace"
	podAnnotation        = "kubectl-gateway.github.io/pod-name"
	podUIDAnnotation     = "kubectl-gateway.github.io/pod-uid"
	accountAnnotation    = "kubectl-gateway.github.io/service-account"
	accountUIDAnnotation = "kubectl-gateway.github.io/service-account-uid"
	nodeAnnotation       = "kubectl-gateway.github.io/node-name"
	nodeUIDAnnotation    = "kubectl-gateway.github.io/node-uid"
)

// reply is how a request stands.
type reply struct {
	// chain is what was issued, empty until then.
	chain string
	// refusal is why nothing will be.
	refusal error
	// unapproved says that nobody has said yes.
	unapproved bool
}

// filed is a request that the server has taken.
type filed struct {
	// what names it as kubectl does.
	what string
	look func(context.Context) (reply, error)
}

// ask files a request, and returns the chain that answers it.
func (s *Signer) ask(ctx context.Context, request *x509.CertificateRequest, csr []byte, about ca.LeafRequest) (string, error) {
	ctx, cancel := inTime(ctx)
	defer cancel()
	holder, err := s.holder(ctx, about.Pod)
	if err != nil {
		return "", err
	}
	file := s.fileForPod
	if s.request == RequestCSR {
		file = s.fileCSR
	}
	f, err := file(ctx, request, csr, holder, about)
	if err != nil {
		return "", err
	}
	return f.await(ctx)
}

// inTime returns a context that ends before ctx, so that the caller hears why.
func inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	end := time.Now().Add(patience)
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		end = deadline.Add(-min(margin, left/8))
	}
	return context.WithDeadlineCause(ctx, end, ErrUnanswered)
}

// await looks at f until it is answered.
func (f *filed) await(ctx context.Context) (string, error) {
	start, pause := time.Now(), firstLook
	var last reply
	var trouble error
	for resend.Pause(ctx, pause) == nil {
		pause = min(pause*3/2, lastLook)
		now, err := f.look(ctx)
		switch {
		case apierrors.IsNotFound(err):
			return "", fmt.Errorf("%s is gone: somebody has deleted it before it was answered", f.what)
		case apierrors.IsForbidden(err):
			return "", fmt.Errorf("reading %s: %w", f.what, err)
		case err != nil && ctx.Err() != nil:
			// The time ended during the look, which is nothing about the server.
			continue
		case err != nil:
			// An API server that is away for a moment has not lost the request.
			trouble = err
			continue
		}
		trouble, last = nil, now
		if last.refusal != nil {
			return "", fmt.Errorf("%s: %w", f.what, last.refusal)
		}
		if last.chain != "" {
			return last.chain, nil
		}
	}
	if !errors.Is(context.Cause(ctx), ErrUnanswered) {
		return "", context.Cause(ctx)
	}
	err := fmt.Errorf("%w %s within %s", ErrUnanswered, f.what, time.Since(start).Round(time.Second))
	name, namespace, _ := strings.Cut(f.what, " -n ")
	describe, other := "kubectl describe "+name, ""
	if namespace != "" {
		describe += " -n " + namespace
		other = "; some signers answer CertificateSigningRequests alone, such as cert-manager: 'kubectl gateway init-ca --signer=… --signer-request=csr'"
	}
	switch {
	case trouble != nil:
		return "", fmt.Errorf("%w; reading it: %w", err, trouble)
	case last.unapproved:
		_, name, _ = strings.Cut(name, "/")
		return "", api.WithHint(fmt.Errorf("%w: nobody has approved it", err),
			fmt.Sprintf("'kubectl certificate approve %s' does, while the command waits, or whoever approves for this signer; --timeout waits longer", name))
	}
	return "", api.WithHint(err, fmt.Sprintf("find out whether the signer runs; '%s' shows the request and its events; --timeout waits longer%s", describe, other))
}

// Holder is the pod that gets a certificate, with all UIDs.
type Holder struct {
	api.PodRef
	AccountUID, NodeUID types.UID
}

// PodOf returns which pod r is about by its annotations, which anybody may have written.
func PodOf(r *certificatesv1.CertificateSigningRequest) Holder {
	a := r.Annotations
	return Holder{PodRef: api.PodRef{
		Namespace: a[namespaceAnnotation], Name: a[podAnnotation], UID: a[podUIDAnnotation], ServiceAccount: a[accountAnnotation], Node: a[nodeAnnotation],
	}, AccountUID: types.UID(a[accountUIDAnnotation]), NodeUID: types.UID(a[nodeUIDAnnotation])}
}

// holder completes pod.
func (s *Signer) holder(ctx context.Context, pod api.PodRef) (Holder, error) {
	account, err := s.client.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.ServiceAccount, metav1.GetOptions{})
	if err != nil {
		return Holder{}, fmt.Errorf("reading the service account of the pod: %w", err)
	}
	node, err := s.client.CoreV1().Nodes().Get(ctx, pod.Node, metav1.GetOptions{})
	if err != nil {
		return Holder{}, fmt.Errorf("reading the node of the pod: %w", err)
	}
	return Holder{pod, account.UID, node.UID}, nil
}

// fileForPod files a PodCertificateRequest. The control plane removes it after some minutes.
func (s *Signer) fileForPod(ctx context.Context, request *x509.CertificateRequest, _ []byte, of Holder, about ca.LeafRequest) (*filed, error) {
	object := &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: of.Namespace, Name: requestName(of.Name), Labels: map[string]string{managedByLabel: managedBy}},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: s.Name, PodName: of.Name, PodUID: types.UID(of.UID),
			ServiceAccountName: of.ServiceAccount, ServiceAccountUID: of.AccountUID,
			NodeName: types.NodeName(of.Node), NodeUID: of.NodeUID,
			MaxExpirationSeconds: seconds(about.TTL), StubPKCS10Request: request.Raw,
		},
	}
	requests := s.client.CertificatesV1().PodCertificateRequests(of.Namespace)
	if _, err := requests.Create(ctx, object, metav1.CreateOptions{FieldManager: managedBy}); err != nil {
		return nil, unfiled("PodCertificateRequest", err)
	}
	name := object.Name
	return &filed{"podcertificaterequest/" + name + " -n " + of.Namespace, func(ctx context.Context) (reply, error) {
		now, err := requests.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return reply{}, err
		}
		r := reply{chain: now.Status.CertificateChain}
		for _, c := range now.Status.Conditions {
			switch c.Type {
			case certificatesv1.PodCertificateRequestConditionTypeDenied:
				r.refusal = refusal(ErrDenied, c.Reason, c.Message)
			case certificatesv1.PodCertificateRequestConditionTypeFailed:
				r.refusal = refusal(ErrFailed, c.Reason, c.Message)
			}
		}
		return r, nil
	}}, nil
}

// fileCSR files a CertificateSigningRequest, which somebody has to approve. The control plane
// removes it after some time.
func (s *Signer) fileCSR(ctx context.Context, _ *x509.CertificateRequest, csr []byte, of Holder, about ca.LeafRequest) (*filed, error) {
	object := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: requestName(of.Name), Labels: map[string]string{managedByLabel: managedBy}, Annotations: map[string]string{
			namespaceAnnotation: of.Namespace, podAnnotation: of.Name, podUIDAnnotation: of.UID,
			accountAnnotation: of.ServiceAccount, accountUIDAnnotation: string(of.AccountUID),
			nodeAnnotation: of.Node, nodeUIDAnnotation: string(of.NodeUID),
		}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: s.Name, Request: csr, ExpirationSeconds: seconds(about.TTL),
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth},
		},
	}
	requests := s.client.CertificatesV1().CertificateSigningRequests()
	if _, err := requests.Create(ctx, object, metav1.CreateOptions{FieldManager: managedBy}); err != nil {
		return nil, unfiled("CertificateSigningRequest", err)
	}
	name := object.Name
	return &filed{"csr/" + name, func(ctx context.Context) (reply, error) {
		now, err := requests.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return reply{}, err
		}
		r := reply{chain: string(now.Status.Certificate), unapproved: true}
		for _, c := range now.Status.Conditions {
			if c.Status == corev1.ConditionFalse {
				continue
			}
			switch c.Type {
			case certificatesv1.CertificateApproved:
				r.unapproved = false
			case certificatesv1.CertificateDenied:
				r.refusal = refusal(ErrDenied, c.Reason, c.Message)
			case certificatesv1.CertificateFailed:
				r.refusal = refusal(ErrFailed, c.Reason, c.Message)
			}
		}
		return r, nil
	}}, nil
}

// unfiled is the error of a request that the server has not taken.
func unfiled(kind string, err error) error {
	err = fmt.Errorf("filing a %s: %w", kind, err)
	if apierrors.IsNotFound(err) && kind == "PodCertificateRequest" {
		return api.WithHint(err, "Kubernetes 1.37 and later have it: 'kubectl gateway init-ca --signer=… --signer-request=csr' asks by CertificateSigningRequests")
	}
	return err
}

// refusal is err in the words of the signer.
func refusal(err error, reason, message string) error {
	words := terminal.Clean(strings.Join(strings.Fields(reason+": "+message), " "))
	if words = strings.Trim(words, ": "); words != "" {
		err = fmt.Errorf("%w: %.500s", err, words)
	}
	if reason == certificatesv1.PodCertificateRequestConditionUnsupportedKeyType {
		return api.WithHint(err, "keys of gateways are ECDSA P-256: the signer has to take those")
	}
	return api.WithHint(err, "ask who runs the signer; its log may tell more")
}

// requestName returns a new name that tells which pod it is about.
func requestName(pod string) string {
	const prefix, suffix = "kube-gateway-", 10
	pod = pod[:min(len(pod), validation.DNS1123SubdomainMaxLength-len(prefix)-suffix-1)]
	return prefix + strings.TrimRight(pod, "-.") + "-" + rand.String(suffix)
}

// seconds returns a lifetime as requests have it, nil for the signer's own choice.
func seconds(ttl time.Duration) *int32 {
	if ttl <= 0 {
		return nil
	}
	return new(int32(min(ttl/time.Second, 1<<31-1)))
}
