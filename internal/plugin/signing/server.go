package signing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	certificatesinformers "k8s.io/client-go/informers/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const (
	// trustInterval is how often it is looked whether the authority has other roots than are published.
	trustInterval = 5 * time.Second
	// Retries of one request pause this long at first and twice as long each time.
	retryDelay = time.Second
	maxDelay   = time.Minute
	// answerTimeout bounds the work for one request.
	answerTimeout = 30 * time.Second
)

// Server answers requests for a signer.
type Server struct {
	Client kubernetes.Interface
	// Name is the signer's, such as example.com/kube-gateway.
	Name string
	// Namespace is that of the pods and service accounts that get certificates, empty for all.
	Namespace string
	// For are the service accounts that get certificates without a gateway.
	For []api.Rule
	// TTL is how long certificates live unless a request wants less; [ca.DefaultLeafTTL] if zero.
	TTL time.Duration
	// Parallel is how many requests are answered at a time; [parallel.Default] if zero.
	Parallel int
	// Authority reads the authority, and Survey what the cluster says of addresses. Both are called often.
	Authority func(context.Context) (*ca.Authority, error)
	Survey    func(context.Context, *corev1.Pod) (*survey.Survey, error)
	// Report is called with what happens. Calls may come at the same time.
	Report func(watch.Event)

	queue   workqueue.TypedRateLimitingInterface[request]
	sources map[string]cache.SharedIndexInformer

	mu sync.Mutex
	// published is what the ClusterTrustBundle holds, as far as is known.
	published string
	// told is the trouble that was reported last, by what it is about.
	told map[string]string
}

// errOvertaken means that somebody else has answered a request, or that it is gone.
var errOvertaken = errors.New("somebody else was faster")

// written returns the error of an answer that was written.
func written(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return errOvertaken
	}
	return err
}

// Kinds of requests, as kubectl names them.
const (
	kindPod = "podcertificaterequest"
	kindCSR = "certificatesigningrequest"
)

// CheckName returns why no authority of ours can be the signer called name.
func CheckName(name string) error {
	if err := (&signer.Choice{Name: name, TrustDomain: ca.DefaultTrustDomain}).Validate(); err != nil {
		return err
	}
	if domain, _, _ := strings.Cut(name, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		return api.WithHint(fmt.Errorf("signer %s is one of Kubernetes' own", name), "choose a name in a domain of yours, like example.com/kube-gateway")
	}
	return nil
}

// Run answers requests until ctx ends; the error is nil then.
func (s *Server) Run(ctx context.Context) error {
	if err := s.start(ctx); err != nil {
		return unlessEnded(ctx, err)
	}
	var work sync.WaitGroup
	// The libraries' own log would tear the output apart.
	feed := klog.NewContext(ctx, klog.Logger{})
	for _, informer := range s.sources {
		work.Go(func() { informer.RunWithContext(feed) })
	}
	for range s.parallel() {
		work.Go(func() { s.work(ctx) })
	}
	work.Go(func() {
		for resend.Pause(ctx, trustInterval) == nil {
			s.notice(ctx, "trust", s.refresh(ctx))
		}
	})
	<-ctx.Done()
	s.queue.ShutDown()
	work.Wait()
	return nil
}

// Once answers the requests that there are, and returns how many it could not.
func (s *Server) Once(ctx context.Context) (failures int, err error) {
	if err := s.start(ctx); err != nil {
		return 0, unlessEnded(ctx, err)
	}
	defer s.queue.ShutDown()
	var list []any
	for kind := range s.sources {
		switch kind {
		case kindPod:
			requests, err := s.Client.CertificatesV1().PodCertificateRequests(s.Namespace).List(ctx, s.mine())
			if err != nil {
				return 0, fmt.Errorf("listing %ss: %w", kind, err)
			}
			for i := range requests.Items {
				list = append(list, &requests.Items[i])
			}
		case kindCSR:
			requests, err := s.Client.CertificatesV1().CertificateSigningRequests().List(ctx, s.mine())
			if err != nil {
				return 0, fmt.Errorf("listing %ss: %w", kind, err)
			}
			for i := range requests.Items {
				list = append(list, &requests.Items[i])
			}
		}
	}
	for _, err := range parallel.Each(s.parallel(), list, func(request *any) error { return s.answer(ctx, *request) }, nil) {
		if err != nil {
			failures++
		}
	}
	return failures, ctx.Err()
}

func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Server) parallel() int { return cmp.Or(max(s.Parallel, 0), parallel.Default) }

func (s *Server) mine() metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.signerName", s.Name).String()}
}

// start publishes the roots, and prepares what feeds the queue.
func (s *Server) start(ctx context.Context) error {
	s.TTL, s.told = cmp.Or(s.TTL, ca.DefaultLeafTTL), map[string]string{}
	if err := s.refresh(ctx); err != nil {
		return err
	}
	s.queue = newQueue()
	mine := func(o *metav1.ListOptions) { o.FieldSelector = s.mine().FieldSelector }
	s.sources = map[string]cache.SharedIndexInformer{
		kindCSR: certificatesinformers.NewFilteredCertificateSigningRequestInformer(s.Client, 0, nil, mine),
	}
	has, err := signer.HasPodRequests(ctx, s.Client)
	if err != nil {
		return fmt.Errorf("asking the server which requests it has: %w", err)
	}
	if has {
		s.sources[kindPod] = certificatesinformers.NewFilteredPodCertificateRequestInformer(s.Client, s.Namespace, 0, nil, mine)
	}
	for kind, informer := range s.sources {
		add := func(object any) {
			if r, err := requestOf(kind, object); err == nil && s.open(object) {
				s.queue.Add(r)
			}
		}
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, now any) { add(now) }})
		err = errors.Join(err, informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
			// That the API server is away is told by who watches pods.
			if apierrors.IsForbidden(err) {
				s.notice(ctx, kind, fmt.Errorf("watching %ss: %w", kind, err))
			}
		}))
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) work(ctx context.Context) {
	for {
		r, down := s.queue.Get()
		if down {
			return
		}
		if object, exists, _ := s.sources[r.kind].GetStore().GetByKey(r.key); exists && ctx.Err() == nil && s.answer(ctx, object) != nil {
			s.queue.AddRateLimited(r)
		} else {
			s.queue.Forget(r)
		}
		s.queue.Done(r)
	}
}

// open reports whether a request is to be answered.
func (s *Server) open(object any) bool {
	switch r := object.(type) {
	case *certificatesv1.PodCertificateRequest:
		return s.openPod(r)
	case *certificatesv1.CertificateSigningRequest:
		return s.openCSR(r)
	}
	return false
}

// answer answers a request, if it is open. The error is for another try.
func (s *Server) answer(ctx context.Context, object any) error {
	if !s.open(object) {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var about ca.LeafRequest
	var leaf *ca.Leaf
	var err error
	event := watch.Event{Time: time.Now(), Action: watch.Signed}
	switch r := object.(type) {
	case *certificatesv1.PodCertificateRequest:
		event.Request, event.Namespace, event.Pod = kindPod+"/"+r.Name, r.Namespace, r.Spec.PodName
		about, leaf, err = s.answerPod(limited, r)
	case *certificatesv1.CertificateSigningRequest:
		pod := signer.PodOf(r)
		event.Request, event.Namespace, event.Pod = kindCSR+"/"+r.Name, pod.Namespace, pod.Name
		about, leaf, err = s.answerCSR(limited, r)
	}
	var refusal *Refusal
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &refusal):
		event.Action, event.Err = watch.Denied, refusal
	case errors.Is(err, errOvertaken):
		// What has changed comes again.
		return nil
	case err != nil:
		s.notice(ctx, "answers", fmt.Errorf("answering requests: %w", err))
		return err
	default:
		event.Identity, event.NotAfter = about.Identity.String(), leaf.NotAfter
	}
	s.notice(ctx, "answers", nil)
	s.Report(event)
	return nil
}

// notice reports trouble with what, once. nil ends it.
func (s *Server) notice(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	text := ""
	if err != nil {
		text = "signer " + s.Name + ": " + err.Error()
	}
	s.mu.Lock()
	news := text != "" && text != s.told[what]
	s.told[what] = text
	s.mu.Unlock()
	if news {
		s.say(text)
	}
}

func (s *Server) say(text string) {
	s.Report(watch.Event{Time: time.Now(), Action: watch.Noticed, Warnings: []string{text}})
}
