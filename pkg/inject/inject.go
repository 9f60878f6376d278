package inject

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const (
	// DefaultTimeout is how long one pod may take.
	DefaultTimeout = 60 * time.Second
	// maxRounds bounds how often a pod is looked at again because others change
	// its gateways at the same time.
	maxRounds = 5
)

// Delivery says how a gateway gets its first certificate.
type Delivery string

const (
	// DeliverySecret makes the key here and brings it to the pod in a Secret, which
	// lives until the gateway has read it.
	DeliverySecret Delivery = "secret"
	// DeliveryCSR has the gateway make the key, which never leaves it, and brings
	// the certificate by exec. No Secret is made.
	DeliveryCSR Delivery = "csr"
)

// Options are what the user decides about the gateways.
type Options struct {
	Image string
	// PullPolicy may be empty: the server then decides by the image's tag.
	PullPolicy corev1.PullPolicy
	// Config has the settings of the gateways. What follows from the pod is filled in for each.
	// With ExistingReset the connections of pods that have a gateway already are reset, too.
	api.Config
	// Delivery is how the gateways get their first certificate. Empty means
	// DeliverySecret.
	Delivery Delivery
	// TTL is the lifetime of the certificates.
	TTL time.Duration
	// Timeout bounds one pod, from the first look to the gateway's ready.
	Timeout time.Duration
	// KeepSecret leaves the Secret where it is once the gateway is ready.
	KeepSecret bool
	DryRun     installed.DryRun
	Succession Succession
	// Declared, if not nil, changes the settings that a sidecar gets with its first certificate. Those of other
	// gateways are in Config.
	Declared func(*api.Config)
}

// Injector adds gateways to pods. It is safe for concurrent use.
type Injector struct {
	Client kubernetes.Interface
	// Authority issues the certificates. One that is no *ca.Authority does so by request alone: then
	// Options.Delivery does not count.
	Authority ca.Issuer
	Gateways  *remote.Client
	Survey    *survey.Survey
	Options   Options
	// Shared, if not nil, spares the API server what has to be asked for many pods once.
	Shared *Shared
}

// Action is what Enable did.
type Action string

const (
	Enabled Action = "enabled"
	// Unchanged is a pod that has a gateway which is ready.
	Unchanged Action = "unchanged"
	// Replaced is a pod whose gateway took the place of another one that ran.
	Replaced Action = "replaced"
	Failed   Action = "failed"
)

// Result is the outcome of Enable or Replace for one pod.
type Result struct {
	Pod       *corev1.Pod
	Action    Action
	Container string
	// Predecessor is the container of the gateway that was or is to be replaced, and Was what that
	// said of itself before.
	Predecessor string
	Was         *api.Status
	Elapsed     time.Duration
	// Status is what the gateway says about itself, if it was asked.
	Status *api.Status
	// Reset counts the connections from before the gateway that were reset.
	Reset int
	// Warnings are for the user, one line each.
	Warnings []string
	// Err is why the pod failed. Its words may come from anybody in the
	// cluster: clean them before they reach a terminal.
	Err error
	// Secret (without its key, nil if there is none) and Patch are set by a dry run.
	Secret *corev1.Secret
	Patch  *installed.Patch
}

// Uses returns the rights that Enable needs in a pod's namespace, where issuer issues.
func Uses(delivery Delivery, issuer ca.Issuer) []rights.Use {
	uses := append([]rights.Use{rights.Enable}, rights.Issuing(issuer)...)
	if deliveryOf(delivery, issuer) != DeliveryCSR {
		uses = append(uses, rights.Secrets)
	}
	return uses
}

// Delivery returns how gateways get their first certificate.
func (in *Injector) Delivery() Delivery { return deliveryOf(in.Options.Delivery, in.Authority) }

// deliveryOf is DeliveryCSR where issuer is a signer of the cluster: it gets the request of a gateway,
// and never a key.
func deliveryOf(wanted Delivery, issuer ca.Issuer) Delivery {
	if asksSigner(issuer) {
		return DeliveryCSR
	}
	return wanted
}

// asksSigner reports whether issuer is no authority of our own.
func asksSigner(issuer ca.Issuer) bool {
	_, own := issuer.(*ca.Authority)
	return issuer != nil && !own
}

// errNoKey is an Authority that makes no keys.
var errNoKey = errors.New("only an authority of our own makes keys")

// Enable gives pod a gateway, unless it has one that works, and returns when
// that says it is ready. After a failure no Secret is left, and nothing that
// would keep another Enable from succeeding; a container that was added stays,
// because Kubernetes cannot remove it.
func (in *Injector) Enable(ctx context.Context, pod *corev1.Pod) Result {
	return in.rounds(ctx, pod, in.round)
}

// rounds calls round with pod in its present state until other plugins do not come between.
func (in *Injector) rounds(ctx context.Context, pod *corev1.Pod, round func(context.Context, *corev1.Pod) Result) Result {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, in.Options.Timeout, errTimeout)
	defer cancel()
	pod, err := in.born(ctx, pod)
	result := Result{Pod: pod, Err: cmp.Or(err, installed.ErrOvertaken)}
	for n := 0; n < maxRounds && errors.Is(result.Err, installed.ErrOvertaken); n++ {
		if n > 0 {
			if pod, err = installed.Reread(ctx, in.Client, pod); err != nil {
				result = Result{Pod: result.Pod, Err: err}
				break
			}
		}
		result = round(ctx, pod)
	}
	if result.Err != nil {
		result.Action = Failed
		result.Err = in.inTime(ctx, result.Err)
	}
	result.Elapsed = time.Since(start)
	return result
}

// round is one attempt on the state of pod that is given.
func (in *Injector) round(ctx context.Context, pod *corev1.Pod) Result {
	result := Result{Pod: pod}
	if result.Err = in.Survey.Refusal(pod); result.Err != nil {
		return result
	}
	if current, ok := in.Gateways.Serving(ctx, pod); ok && installed.Hopeful(pod, current) && !(current.Pulls() && current.Image != in.Options.Image && !current.Sidecar) {
		return in.joinGateway(ctx, pod, current)
	}
	if result.Err = in.Survey.CheckClaims(ctx, in.Client, pod); result.Err != nil {
		return result
	}
	return in.addGateway(ctx, pod)
}

// joinGateway waits for a gateway that is there already.
func (in *Injector) joinGateway(ctx context.Context, pod *corev1.Pod, current installed.Gateway) Result {
	result := Result{Pod: pod, Action: Unchanged, Container: current.Name}
	if current.Phase == installed.Running {
		if result.Err = installed.CheckAddresses(pod, current.Name); result.Err != nil {
			return result
		}
	}
	if in.Options.DryRun == installed.DryRunClient {
		return result
	}
	reply := in.wait(ctx, pod, current.Name)
	result.Status, result.Err = reply.status, reply.err
	if reply.delivered {
		result.Action = Enabled
	}
	if errors.As(result.Err, new(*installed.FailedError)) {
		result.Err = installed.ErrOvertaken
	}
	if result.Err == nil && result.Status.State == api.Standby {
		// The gateway that it waited to take over from has ended.
		result.Action = Enabled
		if result.Status, result.Err = in.alone(ctx, pod, current.Name); result.Err == nil {
			result.Err = in.checkStatus(pod, current.Name, result.Status)
		}
	}
	if result.Err == nil && result.Status.State == api.Disabled {
		// What runs there is idle for good.
		if result.Err = in.Survey.CheckClaims(ctx, in.Client, pod); result.Err == nil {
			return in.addGateway(ctx, pod)
		}
	}
	if result.Err != nil {
		return result
	}
	if in.Options.DryRun == installed.DryRunNone {
		if result.Err = in.existing(ctx, &result, reply.delivered); result.Err != nil {
			return result
		}
	}
	result.Warnings = in.remarks(pod, result.Status)
	if !current.Sidecar || !reply.delivered {
		// Who certifies a sidecar does not say how it is to be.
		result.Warnings = append(in.differences(pod, current.Name, result.Status), result.Warnings...)
	}
	if in.Options.DryRun == installed.DryRunNone {
		in.tidy(ctx, &result, reply.pod, "")
	}
	return result
}

// tidy removes what earlier plugins have left for pod, as it was last seen, and not the
// Secret called own. The pod has a gateway by now: that this fails is worth a warning and
// no more.
func (in *Injector) tidy(ctx context.Context, result *Result, pod *corev1.Pod, own string) {
	err := in.shared().leftovers.Remove(ctx, pod, own)
	if in.Delivery() == DeliveryCSR && apierrors.IsForbidden(err) {
		// Without Secrets, no right to them is needed.
		return
	}
	if err != nil {
		result.Warnings = append(result.Warnings, err.Error())
	}
}

// addGateway adds a new gateway to pod and waits for it.
func (in *Injector) addGateway(ctx context.Context, pod *corev1.Pod) Result {
	result := Result{Pod: pod, Action: Enabled, Container: installed.NextName(pod)}
	seen, secret := in.add(ctx, pod, &result, in.configFor(pod))
	if result.Err != nil || in.Options.DryRun != installed.DryRunNone {
		return result
	}
	if result.Err = in.existing(ctx, &result, true); result.Err == nil {
		result.Warnings = append(result.Warnings, in.remarks(pod, result.Status)...)
		in.tidy(ctx, &result, seen, secret)
	}
	return result
}

// add adds the gateway of result with config to pod, and waits until it is ready, or stands by if
// it is to take the place of another one. It returns the pod as it was last seen, and the name of
// the gateway's Secret.
func (in *Injector) add(ctx context.Context, pod *corev1.Pod, result *Result, config *api.Config) (seen *corev1.Pod, secret string) {
	if result.Err = checkMetricsPort(pod, config.MetricsAddr); result.Err != nil {
		return pod, ""
	}
	if in.Delivery() != DeliveryCSR {
		secret = secretName(pod.Name)
	}
	container, err := in.container(result.Container, secret, config)
	if err == nil {
		err = installed.AddStatusPort(container, pod, in.Authority.Roots())
	}
	if err != nil {
		result.Err = err
		return pod, secret
	}
	if in.Options.DryRun != installed.DryRunNone {
		in.dryRun(ctx, result, secret, container)
		return pod, secret
	}
	if secret == "" {
		// The patch itself is the first that could be refused.
		return in.start(ctx, pod, result, container), ""
	}
	tried, err := in.rehearse(ctx, pod, container)
	if err != nil {
		// Refusals come before anything is created.
		result.Err = installed.WhileClosed(pod, err)
		return pod, secret
	}
	return in.startWithSecret(ctx, tried, result, secret, container), secret
}

// startWithSecret is start between making the Secret and deleting it.
func (in *Injector) startWithSecret(ctx context.Context, pod *corev1.Pod, result *Result, secret string, container *corev1.EphemeralContainer) *corev1.Pod {
	authority, ok := in.Authority.(*ca.Authority)
	if !ok {
		result.Err = errNoKey
		return pod
	}
	leaf, err := authority.Issue(ca.LeafRequest{
		Identity: installed.Identity(pod, in.Authority.TrustDomain()), IPs: installed.PodIPs(pod), TTL: in.Options.TTL, Pod: installed.RefOf(pod)})
	if err != nil {
		result.Err = err
		return pod
	}
	created, err := in.createSecret(ctx, in.newSecret(pod, secret, result.Container, leaf.CertPEM, leaf.KeyPEM))
	if err != nil {
		result.Err = err
		return pod
	}
	pod = in.start(ctx, pod, result, container)
	if result.Err != nil || !in.Options.KeepSecret {
		if err := installed.DeleteSecret(ctx, in.Client, created.Namespace, created.Name); err != nil {
			result.Warnings = append(result.Warnings, err.Error()+"; "+api.Hint(err))
		}
	}
	return pod
}

// start adds container, waits until it is ready, and returns the pod as it was last seen.
func (in *Injector) start(ctx context.Context, pod *corev1.Pod, result *Result, container *corev1.EphemeralContainer) *corev1.Pod {
	added, err := installed.AddContainer(ctx, in.Client, pod, container, false)
	if err != nil {
		err = installed.WhileClosed(pod, err)
		if interrupted(ctx, err) {
			err = fmt.Errorf("%w; container %s may have been added, and ends by itself without a certificate", errInterrupted, container.Name)
		}
		result.Err = err
		return pod
	}
	reply := in.wait(ctx, added, container.Name)
	if reply.err != nil && interrupted(ctx, reply.err) {
		reply.err = fmt.Errorf("%w; container %s was added and stays, because Kubernetes cannot remove it", errInterrupted, container.Name)
	}
	result.Status, result.Err = reply.status, reply.err
	return reply.pod
}

// dryRun fills result with what would be sent, the key left out, and has the
// server try it if that is wanted.
func (in *Injector) dryRun(ctx context.Context, result *Result, name string, container *corev1.EphemeralContainer) {
	if name != "" {
		result.Secret = in.newSecret(result.Pod, name, container.Name, nil, nil)
		// As text, so that a reader sees what is there and what is left out.
		result.Secret.Data = nil
		result.Secret.StringData = map[string]string{
			corev1.TLSCertKey: "", corev1.TLSPrivateKeyKey: "", keyBundle: string(in.Authority.Bundle()),
		}
	}
	result.Patch = installed.NewPatch(result.Pod, container)
	if result.Predecessor == "" {
		result.Warnings = slices.Concat(wireRemarks(in.Options.Wire, in.Options.Mode), in.strictRemarks(result.Pod, in.Options.Mode, in.Options.Named), logRemarks(result.Pod, installed.LogTotal(result.Pod)))
	}
	if in.Options.DryRun != installed.DryRunServer {
		return
	}
	if name != "" {
		if result.Err = in.trySecret(ctx, result.Pod, name, container.Name); result.Err != nil {
			return
		}
	}
	_, result.Err = installed.AddContainer(ctx, in.Client, result.Pod, container, true)
}

// interrupted reports whether err comes from the end of ctx, and that not from
// the timeout.
func interrupted(ctx context.Context, err error) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout) &&
		(errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)) || errors.Is(err, errInterrupted))
}

// inTime puts errors that come from the end of ctx into the user's terms.
func (in *Injector) inTime(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, errInterrupted) || errors.Is(err, errTimeout):
		return err
	case interrupted(ctx, err):
		return errInterrupted
	case ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded):
		return api.WithHint(fmt.Errorf("%w after %s: %w", errTimeout, in.Options.Timeout, err), "--timeout waits longer")
	}
	return err
}
