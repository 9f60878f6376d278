package signing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Reasons of refusals, which stand in conditions of requests.
const (
	reasonRequest   = "InvalidRequest"
	reasonUsages    = "UnsupportedUsages"
	reasonLifetime  = "UnsupportedLifetime"
	reasonPod       = "PodNotFound"
	reasonMismatch  = "PodMismatch"
	reasonEnded     = "PodEnded"
	reasonNoGateway = "NoGateway"
	reasonAddresses = "UnconfirmedAddresses"
	reasonAsker     = "AskerNotAllowed"
	reasonAuthority = "AuthorityUnusable"
	reasonNotTaken  = "CertificateNotTaken"
)

// Refusal says why a request gets no certificate, for good.
type Refusal struct {
	// Reason is a word in CamelCase, and Message is for people.
	Reason, Message string
	// Failed says that it is not the asker's fault.
	Failed bool
}

func (r *Refusal) Error() string { return r.Reason + ": " + r.Message }

// maxMessage bounds the message of a condition, in characters.
const maxMessage = 1000

func refuse(reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Message: clean(format, args...)}
}

// clean returns words for a condition, in which words of others may be.
func clean(format string, args ...any) string {
	return fmt.Sprintf("%.*s", maxMessage, terminal.Clean(fmt.Sprintf(format, args...)))
}

// ParseRule parses a rule about who may have a certificate, as [api.ParseRule] does, without ports.
func ParseRule(text string) (api.Rule, error) {
	rule, err := api.ParseRule(text)
	if err == nil && strings.Contains(text, ":") {
		err = api.WithHint(fmt.Errorf("rule %.300q has ports, and a certificate is for all", text), "write it like 'ns/prod/sa/*'")
	}
	return rule, err
}

// ruled reports whether a rule gives certificates to that service account.
func (s *Server) ruled(namespace, account string) bool {
	return slices.ContainsFunc(s.For, func(r api.Rule) bool { return r.Matches(namespace, account, 0) })
}

// aboutPod returns what a certificate for the pod of a request may say, by the word of the API server at present. The
// error is a [Refusal] if the pod gets none. Messages tell the asker nothing of the pod that the request does not.
func (s *Server) aboutPod(ctx context.Context, c signer.Holder) (ca.LeafRequest, error) {
	none := ca.LeafRequest{}
	if len(content.IsPathSegmentName(c.Name)) > 0 || len(content.IsPathSegmentName(c.Namespace)) > 0 {
		return none, refuse(reasonPod, "%q in namespace %q is not the name of a pod", c.Name, c.Namespace)
	}
	pod, err := s.Client.CoreV1().Pods(c.Namespace).Get(ctx, c.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return none, refuse(reasonPod, "there is no pod %s in namespace %s", c.Name, c.Namespace)
	case err != nil:
		return none, fmt.Errorf("reading the pod: %w", err)
	case string(pod.UID) != c.UID:
		return none, refuse(reasonPod, "pod %s in namespace %s does not have the UID %s", c.Name, c.Namespace, c.UID)
	}
	authority, err := s.Authority(ctx)
	if err != nil {
		return none, fmt.Errorf("reading the authority: %w", err)
	}
	id := installed.Identity(pod, authority.TrustDomain())
	switch {
	case installed.Leaving(pod):
		return none, refuse(reasonEnded, "pod %s has ended, or is about to", c.Name)
	case installed.Static(pod):
		return none, refuse(reasonMismatch, "%v", installed.ErrStatic)
	case c.ServiceAccount != id.ServiceAccount:
		return none, refuse(reasonMismatch, "the service account of pod %s is not %s", c.Name, c.ServiceAccount)
	case c.Node != pod.Spec.NodeName:
		return none, refuse(reasonMismatch, "pod %s is not on node %s", c.Name, c.Node)
	}
	if err := s.checkUIDs(ctx, c); err != nil {
		return none, err
	}
	if err := s.checkGateway(pod, id.ServiceAccount); err != nil {
		return none, err
	}
	cluster, err := s.Survey(ctx, pod)
	if err != nil {
		return none, fmt.Errorf("reading what the cluster says of addresses: %w", err)
	}
	if err := cluster.CheckClaims(ctx, s.Client, pod); err != nil {
		return none, refuse(reasonAddresses, "%v", err)
	}
	return ca.LeafRequest{Identity: id, IPs: installed.PodIPs(pod), Pod: installed.RefOf(pod)}, nil
}

// checkUIDs refuses a service account or a node that was replaced by one of the same name.
func (s *Server) checkUIDs(ctx context.Context, c signer.Holder) error {
	account, err := s.Client.CoreV1().ServiceAccounts(c.Namespace).Get(ctx, c.ServiceAccount, metav1.GetOptions{})
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("reading the service account: %w", err)
	case err != nil || account.UID != c.AccountUID:
		return refuse(reasonMismatch, "service account %s in namespace %s does not have the UID %s", c.ServiceAccount, c.Namespace, c.AccountUID)
	}
	node, err := s.Client.CoreV1().Nodes().Get(ctx, c.Node, metav1.GetOptions{})
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("reading the node: %w", err)
	case err != nil || node.UID != c.NodeUID:
		return refuse(reasonMismatch, "node %s does not have the UID %s", c.Node, c.NodeUID)
	}
	return nil
}

// checkGateway refuses a pod that neither has a gateway nor a rule. A gateway that starts counts as soon as the pod has
// addresses: before, a kubelet asks for a volume of the pod, without which it starts nothing and gives no address.
func (s *Server) checkGateway(pod *corev1.Pod, account string) error {
	gateway, has := installed.Current(pod)
	reason, lacks := "", ""
	switch {
	case !has || gateway.Phase == installed.Terminated:
		reason, lacks = reasonNoGateway, "gateway"
	case len(installed.PodIPs(pod)) == 0:
		reason, lacks = reasonAddresses, "address yet"
	default:
		if err := installed.CheckAddresses(pod, gateway.Name); err != nil {
			return refuse(reasonAddresses, "%v", err)
		}
		return nil
	}
	if s.ruled(pod.Namespace, account) {
		return nil
	}
	return refuse(reason, "pod %s has no %s, and no rule gives it a certificate: who runs the signer may add --sign-for='ns/%s/sa/%s'",
		pod.Name, lacks, pod.Namespace, account)
}

// parse reads the key of a request, which must not ask for more than about.
func parse(text []byte, about ca.LeafRequest) error {
	request, err := ca.ParseRequest(text)
	switch {
	case errors.Is(err, ca.ErrKeyType):
		return refuse(certificateKeyType, "keys have to be ECDSA P-256")
	case err == nil:
		err = ca.CheckNames(request, about)
	}
	if err != nil {
		return refuse(reasonRequest, "%v", err)
	}
	return nil
}

// sign makes a certificate that lives for ttl at most, and for least at least.
func (s *Server) sign(ctx context.Context, request []byte, about ca.LeafRequest, ttl, least time.Duration) (*ca.Leaf, error) {
	if err := parse(request, about); err != nil {
		return nil, err
	}
	authority, err := s.Authority(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the authority: %w", err)
	}
	// Who gets the certificate may look for its root at once.
	if err := s.publish(ctx, authority); err != nil {
		return nil, err
	}
	about.TTL = ttl.Truncate(time.Second)
	leaf, err := authority.Sign(request, about)
	if err == nil && leaf.NotAfter.Sub(leaf.NotBefore) < least {
		err = fmt.Errorf("the authority ends on %s, and certificates have to live for %s", authority.NotAfter().Format(time.RFC3339), least)
	}
	if err != nil {
		return nil, &Refusal{Reason: reasonAuthority, Message: clean("%v", err), Failed: true}
	}
	return leaf, nil
}
