package inject

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const (
	// DefaultTimeout is how long one pod may take.
	DefaultTimeout = 60 * time.Second
	// DefaultParallel is how many pods are worked on at a time.
	DefaultParallel = 16
	// cleanupTimeout bounds deleting a Secret after everything else has ended.
	cleanupTimeout = 5 * time.Second
	// maxRounds bounds how often a pod is looked at again because others change
	// its gateways at the same time.
	maxRounds = 5
)

// DryRun says what of an Enable really happens.
type DryRun string

const (
	DryRunNone DryRun = ""
	// DryRunClient sends nothing that would change anything.
	DryRunClient DryRun = "client"
	// DryRunServer sends everything for the server to try and to forget.
	DryRunServer DryRun = "server"
)

// Options are what the user decides about the gateways.
type Options struct {
	Image string
	// PullPolicy may be empty: the server then decides by the image's tag.
	PullPolicy corev1.PullPolicy
	Mode       api.Mode
	OnFailure  api.OnFailure
	// Wire, Allow and BlockUDP are as in api.Config. PlaintextFrom adds to the
	// addresses of each pod's own node.
	Wire          api.Wire
	Allow         []string
	BlockUDP      bool
	PlaintextFrom []netip.Prefix
	// TTL is the lifetime of the certificates.
	TTL time.Duration
	// Timeout bounds one pod, from the first look to the gateway's ready.
	Timeout time.Duration
	// KeepSecret leaves the Secret where it is once the gateway is ready.
	KeepSecret bool
	DryRun     DryRun
}

// Injector adds gateways to pods. It is safe for concurrent use.
type Injector struct {
	Client    kubernetes.Interface
	Authority Authority
	Gateways  StatusReader
	// Cluster comes from Survey.
	Cluster *Cluster
	Options Options
}

// Action is what Enable did.
type Action string

const (
	Enabled Action = "enabled"
	// Unchanged is a pod that has a gateway which is ready.
	Unchanged Action = "unchanged"
	Failed    Action = "failed"
)

// Result is the outcome of Enable for one pod.
type Result struct {
	Pod       *corev1.Pod
	Action    Action
	Container string
	Elapsed   time.Duration
	// Status is what the gateway says about itself, if it was asked.
	Status *api.Status
	// Warnings are for the user, one line each.
	Warnings []string
	// Err is why the pod failed. Its words may come from anybody in the
	// cluster: clean them before they reach a terminal.
	Err error
	// Secret (without its key) and Patch are set by a dry run.
	Secret *corev1.Secret
	Patch  *Patch
}

// EnableAll enables pods, at most parallelism at a time, and calls report with the
// result of each as it comes; calls do not overlap. One pod's failure is no
// concern of the others. Results are in the order of pods.
func (in *Injector) EnableAll(ctx context.Context, pods []corev1.Pod, parallelism int, report func(Result)) []Result {
	access := map[string]func() error{}
	for i := range pods {
		namespace := pods[i].Namespace
		if access[namespace] == nil {
			access[namespace] = sync.OnceValue(func() error { return CheckAccess(ctx, in.Client, namespace) })
		}
	}
	return parallel.Each(parallelism, pods, func(pod *corev1.Pod) Result {
		result := Result{Pod: pod, Action: Failed}
		if result.Err = access[pod.Namespace](); result.Err == nil {
			result = in.Enable(ctx, pod)
		} else if ctx.Err() != nil {
			result.Err = errInterrupted
		}
		return result
	}, report)
}

// Enable gives pod a gateway, unless it has one that works, and returns when
// that says it is ready. After a failure no Secret is left, and nothing that
// would keep another Enable from succeeding; a container that was added stays,
// because Kubernetes cannot remove it.
func (in *Injector) Enable(ctx context.Context, pod *corev1.Pod) Result {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, in.Options.Timeout, errTimeout)
	defer cancel()
	result := Result{Pod: pod, Err: errOvertaken}
	for round := 0; round < maxRounds && errors.Is(result.Err, errOvertaken); round++ {
		if round > 0 {
			var err error
			if pod, err = in.reread(ctx, pod); err != nil {
				result = Result{Pod: result.Pod, Err: err}
				break
			}
		}
		result = in.round(ctx, pod)
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
	if result.Err = checkPod(pod, in.Cluster.nodes[pod.Spec.NodeName]); result.Err != nil {
		return result
	}
	if current, ok := Current(pod); ok && hopeful(pod, current) {
		return in.joinGateway(ctx, pod, current)
	}
	return in.addGateway(ctx, pod)
}

// hopeful reports whether a gateway works, as far as the kubelet knows, or may
// be on its way because another plugin is adding it just now.
func hopeful(pod *corev1.Pod, gateway Gateway) bool {
	final, curable := failure(pod, gateway)
	// A failed Enable deletes its Secret, and nobody makes that one again.
	return final == nil && !(curable != nil && strings.Contains(gateway.Message, "not found"))
}

// joinGateway waits for a gateway that is there already.
func (in *Injector) joinGateway(ctx context.Context, pod *corev1.Pod, current Gateway) Result {
	result := Result{Pod: pod, Action: Unchanged, Container: current.Name}
	if in.Options.DryRun == DryRunClient {
		return result
	}
	result.Status, result.Err = in.wait(ctx, pod, current.Name)
	if errors.As(result.Err, new(*failedError)) && !errors.Is(result.Err, errReplaced) {
		result.Err = errOvertaken
	}
	if result.Err != nil {
		return result
	}
	result.Warnings = append(in.differences(pod, current.Name, result.Status), in.untimely(result.Status)...)
	if in.Options.DryRun == DryRunNone {
		in.tidy(ctx, &result)
	}
	return result
}

// tidy removes what earlier plugins have left. The pod has a gateway by now:
// that this fails is worth a warning and no more.
func (in *Injector) tidy(ctx context.Context, result *Result) {
	now, err := in.reread(ctx, result.Pod)
	if err == nil {
		err = in.removeStale(ctx, now)
	}
	if err != nil {
		result.Warnings = append(result.Warnings, err.Error())
	}
}

// differences says which settings of the gateway called name are not the ones
// asked for now. status is what the gateway says itself, nil if it was not asked:
// some settings may have changed since it was given its configuration.
func (in *Injector) differences(pod *corev1.Pod, name string, status *api.Status) []string {
	has, err := ConfigOf(pod, name)
	if err != nil {
		return nil
	}
	wanted := in.configFor(pod, podIPs(pod))
	mode, allow := has.Mode, has.Allow
	if status != nil && status.Mode != "" {
		mode, allow = status.Mode, status.Allow
	}
	which := fmt.Sprintf("pod/%s -n %s", pod.Name, pod.Namespace)
	var list []string
	add := func(differs bool, format string, args ...any) {
		if differs {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	add(mode != wanted.Mode, "it stays in mode %s; to change that: kubectl gateway mode %s %s", mode, which, wanted.Mode)
	add(!slices.Equal(allow, wanted.Allow), "it goes on to allow %s; to change that: kubectl gateway allow %s %s",
		allowed(allow, "everyone"), which, allowed(wanted.Allow, "--everyone"))
	add(has.OnFailure != wanted.OnFailure, "it stays with on-failure %s until the pod is replaced", has.OnFailure)
	add(has.TrustDomain != wanted.TrustDomain, "it stays in trust domain %s until the pod is replaced", has.TrustDomain)
	add(has.Wire != wanted.Wire.OrDefault(), "it stays with wire %s until the pod is replaced", has.Wire)
	add(has.BlockUDP != wanted.BlockUDP, "what it does with UDP stays as it is until the pod is replaced")
	add(!slices.Equal(has.PlaintextFrom, wanted.PlaintextFrom),
		"it goes on to accept plaintext from the sources it was given, not those of this command, until the pod is replaced")
	add(!slices.Equal(has.Capture, wanted.Capture) || !slices.Equal(has.Services, wanted.Services) ||
		!slices.Equal(has.Exclude, wanted.Exclude) || !slices.Equal(has.ExcludePorts, wanted.ExcludePorts),
		"it goes on to capture the destinations it was given, not those of this command, until the pod is replaced")
	return list
}

// allowed puts identity rules into words for a shell.
func allowed(patterns []string, everyone string) string {
	if len(patterns) == 0 {
		return everyone
	}
	return "'" + strings.Join(patterns, "' '") + "'"
}

// untimely says why the certificate of a gateway that runs does not serve.
func (in *Injector) untimely(status *api.Status) []string {
	var list []string
	if status.Cert.NotAfter.Before(time.Now()) {
		list = append(list, fmt.Sprintf("its certificate ended on %s: replace the pod, then enable it again", status.Cert.NotAfter.Format(time.RFC3339)))
	}
	block, _ := pem.Decode(in.Authority.Bundle())
	if block == nil {
		return list
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err == nil && !slices.Contains(status.Cert.Authorities, ca.Fingerprint(root)) {
		list = append(list, "it does not trust the authority of this command: replace the pod, then enable it again")
	}
	return list
}

// addGateway adds a new gateway to pod and waits for it.
func (in *Injector) addGateway(ctx context.Context, pod *corev1.Pod) Result {
	result := Result{Pod: pod, Action: Enabled, Container: NextName(pod)}
	ips := podIPs(pod)
	secret := secretName(pod.Name)
	container, err := in.container(result.Container, secret, in.configFor(pod, ips))
	if err != nil {
		result.Err = err
		return result
	}
	if in.Options.DryRun != DryRunNone {
		in.dryRun(ctx, &result, secret, container)
		return result
	}
	// Refusals come before anything is created.
	if pod, result.Err = in.addContainer(ctx, pod, container, true); result.Err != nil {
		return result
	}
	leaf, err := in.mint(pod, ips)
	if err != nil {
		result.Err = err
		return result
	}
	created, err := in.createSecret(ctx, in.newSecret(pod, secret, result.Container, leaf.CertPEM, leaf.KeyPEM))
	if err != nil {
		result.Err = err
		return result
	}
	result.Status, result.Err = in.start(ctx, pod, container)
	if result.Err != nil || !in.Options.KeepSecret {
		if err := in.deleteSecret(ctx, created.Namespace, created.Name); err != nil {
			result.Warnings = append(result.Warnings, err.Error()+"; "+api.Hint(err))
		}
	}
	if result.Err == nil {
		in.tidy(ctx, &result)
	}
	return result
}

// start adds container, whose Secret exists, and waits until it is ready.
func (in *Injector) start(ctx context.Context, pod *corev1.Pod, container *corev1.EphemeralContainer) (*api.Status, error) {
	added, err := in.addContainer(ctx, pod, container, false)
	if err != nil {
		if interrupted(ctx, err) {
			err = fmt.Errorf("%w; container %s may have been added, and will not start without its Secret", errInterrupted, container.Name)
		}
		return nil, err
	}
	status, err := in.wait(ctx, added, container.Name)
	if err != nil && interrupted(ctx, err) {
		err = fmt.Errorf("%w; container %s was added and stays, because Kubernetes cannot remove it", errInterrupted, container.Name)
	}
	return status, err
}

// dryRun fills result with what would be sent, the key left out, and has the
// server try it if that is wanted.
func (in *Injector) dryRun(ctx context.Context, result *Result, name string, container *corev1.EphemeralContainer) {
	result.Secret = in.newSecret(result.Pod, name, container.Name, nil, nil)
	// As text, so that a reader sees what is there and what is left out.
	result.Secret.Data = nil
	result.Secret.StringData = map[string]string{
		corev1.TLSCertKey: "", corev1.TLSPrivateKeyKey: "", keyBundle: string(in.Authority.Bundle()),
	}
	result.Patch = newPatch(result.Pod, container)
	if in.Options.DryRun != DryRunServer {
		return
	}
	if result.Err = in.trySecret(ctx, result.Pod, name, container.Name); result.Err != nil {
		return
	}
	_, result.Err = in.addContainer(ctx, result.Pod, container, true)
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
