package watch

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/disable"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rotate"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

const (
	// authorityAge is how long an authority that was read may be used. It may be
	// replaced meanwhile, and what the old one issues is of no use for long; many
	// pods that come at once share one reading.
	authorityAge = 2 * time.Second
	// surveyAge is how long the survey of a cluster is used if nothing is known
	// to have changed, and surveyPause the least time between two of them.
	surveyAge   = 10 * time.Minute
	surveyPause = 15 * time.Second
	// askTimeout bounds one question to a gateway.
	askTimeout = 20 * time.Second
)

// Plugin acts as the plugin's other verbs do.
type Plugin struct {
	Client   kubernetes.Interface
	Gateways *remote.Client
	// Options are those of the gateways to be; Watched is set for each.
	Options inject.Options
	// Version is the build of this plugin, whose gateway Options.Image is taken for: older ones are
	// upgraded. Empty upgrades none.
	Version string
	// Drain bounds how long connections of gateways that are disabled may go on.
	Drain time.Duration
	// Authority reads the authority. remark, if not nil, is told what a user has to know about it.
	Authority func(ctx context.Context, remark func(string)) (ca.Issuer, error)
	// FollowRoots brings all gateways of the cluster the roots of a signer, without those that cannot be reached
	// if overlook is set. It is nil where no signer issues the certificates.
	FollowRoots func(ctx context.Context, overlook bool) (*rotate.SignerResult, error)
	// Marker shows the mode of gateways at their pods. It may be nil.
	Marker *announce.Marker
	// Warn is called with what a survey of the cluster had to guess, and with what is to be known
	// about the authority, if that is not what the one before had.
	Warn func([]string)

	authority parallel.Recent[ca.Issuer]
	// unsettled is since when gateways lack roots of the signer, zero if they do not.
	unsettled time.Time
	survey    parallel.Recent[*survey.Survey]
	warned    []string
	// warnedStrict says that strictly has warned.
	warnedStrict atomic.Bool
	// remarked is what was said of the authority last.
	remarked []string
	shared   *inject.Shared
	// known are the pods of the last Survey, and latest is the newest survey that succeeded.
	known  []corev1.Pod
	latest atomic.Pointer[survey.Survey]
}

var _ Actions = (*Plugin)(nil)

// Image is part of Actions.
func (p *Plugin) Image() string { return p.Options.Image }

// Outdated is part of Actions. A gateway that has the image already would be no newer the next
// time, and what is not a semantic version is neither newer nor older.
func (p *Plugin) Outdated(gateway installed.Gateway, status *api.Status) bool {
	own, err := version.ParseSemantic(p.Version)
	if err != nil || gateway.Image == p.Options.Image {
		return false
	}
	its, err := version.ParseSemantic(status.Version)
	return err == nil && its.LessThan(own)
}

// Upgrade is part of Actions.
func (p *Plugin) Upgrade(ctx context.Context, pod *corev1.Pod, status *api.Status, settings declared.Settings) Outcome {
	authority, err := p.Issuer(ctx)
	if err != nil {
		return Outcome{Err: err}
	}
	options := p.Options
	options.Existing = api.ExistingReport
	options.Succession = inject.Succession{DrainTimeout: p.Drain, Change: settings.Change}
	if gateway, ok := installed.Current(pod); ok && !p.Outdated(gateway, status) {
		// It is replaced for its settings, and never by an older one.
		options.Image = gateway.Image
	}
	injector := inject.Injector{Client: p.Client, Authority: authority, Gateways: p.Gateways, Survey: p.latest.Load(), Options: options}
	out := outcome(injector.Replace(ctx, pod))
	if out.Err == nil && out.Status != nil {
		if _, still := settings.Missing(declared.InForce(out.Status)); len(still) > 0 {
			out.Err = fmt.Errorf("the new gateway does not have %s", still)
		}
	}
	return p.marked(ctx, pod, out)
}

// Apply is part of Actions.
func (p *Plugin) Apply(ctx context.Context, pod *corev1.Pod, settings declared.Settings) Outcome {
	cluster, err := p.Cluster(ctx, pod)
	if err != nil {
		return Outcome{Err: err}
	}
	p.strictly(cluster, settings)
	changer := change.Changer{Gateways: p.Gateways}
	result, changed := changer.Bring(ctx, pod, settings, cluster)
	return p.marked(ctx, pod, Outcome{Container: result.Container, Status: result.Status, Changed: len(changed) > 0, Covered: result.Covered, Settings: changed,
		Warnings: result.Warnings, Err: result.Err})
}

// strictly warns of what strict mode may cut off where settings ask for that, once, unless the options have done so.
func (p *Plugin) strictly(cluster *survey.Survey, settings declared.Settings) {
	var c api.Config
	settings.Apply(&c)
	if unknown := cluster.StrictUnknown(); len(unknown) > 0 && c.Mode == api.Strict && p.Options.Mode != api.Strict && p.Warn != nil && p.warnedStrict.CompareAndSwap(false, true) {
		p.Warn(unknown)
	}
}

// marked is out, after the label of pod was brought up to date.
func (p *Plugin) marked(ctx context.Context, pod *corev1.Pod, out Outcome) Outcome {
	if out.Err == nil && out.Status != nil {
		p.Marker.Label(ctx, pod, out.Status.Mode)
	}
	return out
}

func outcome(result inject.Result) Outcome {
	return Outcome{Container: result.Container, Status: result.Status, Warnings: result.Warnings, Err: result.Err,
		Changed: result.Action == inject.Enabled || result.Action == inject.Replaced}
}

// ClusterChanged is part of Actions.
func (p *Plugin) ClusterChanged() { p.survey.Outdate() }

// Follow is part of Actions.
func (p *Plugin) Follow(pods installed.Pods) { p.shared = inject.NewShared(p.Client, pods) }

// Survey is part of Actions.
func (p *Plugin) Survey(ctx context.Context, pods []corev1.Pod) error {
	if len(pods) == 0 {
		p.latest.Store(nil)
		return nil
	}
	_, err := p.survey.Get(surveyAge, func() (*survey.Survey, error) {
		p.known = pods
		return p.read(ctx)
	})
	return err
}

// Covered is part of Actions.
func (p *Plugin) Covered(pod *corev1.Pod, status *api.Status) bool {
	latest, capture := p.latest.Load(), &status.Capture
	if latest == nil || capture.Fingerprint == "" {
		return true
	}
	wanted := latest.Again(pod, capture.Named, capture.Coverage)
	return wanted.Fingerprint() == capture.Fingerprint
}

// Known is part of Actions.
func (p *Plugin) Known(pod *corev1.Pod) bool {
	latest := p.latest.Load()
	return latest == nil || announced(latest, pod)
}

// announced reports whether the ranges of cluster contain all addresses of pod.
func announced(cluster *survey.Survey, pod *corev1.Pod) bool {
	return !slices.ContainsFunc(installed.PodIPs(pod), func(ip netip.Addr) bool {
		return !slices.ContainsFunc(cluster.Found.Capture, func(r netip.Prefix) bool { return r.Contains(ip) })
	})
}

// Refresh is part of Actions.
func (p *Plugin) Refresh(ctx context.Context, pod *corev1.Pod, container string, status *api.Status) Outcome {
	out := Outcome{Container: container}
	cover := change.Cover{Survey: p.latest.Load()}
	out.Status, out.Err = remote.InTime(ctx, change.DefaultTimeout, "the coverage may have been changed", func(ctx context.Context) (now *api.Status, err error) {
		now, out.Covered, err = cover.At(ctx, p.Gateways.Gateway(pod, container), pod, status)
		return now, err
	})
	out.Changed = out.Covered != nil && out.Covered.Changed
	return out
}

// Enable is part of Actions.
func (p *Plugin) Enable(ctx context.Context, pod *corev1.Pod, annotated bool, settings declared.Settings) Outcome {
	authority, err := p.Issuer(ctx)
	if err != nil {
		return Outcome{Err: err}
	}
	cluster, err := p.Cluster(ctx, pod)
	if err != nil {
		return Outcome{Err: err}
	}
	if err := cluster.Refusal(pod); err != nil {
		return Outcome{Err: err, Refused: true}
	}
	options := p.Options
	p.strictly(cluster, settings)
	settings.Apply(&options.Config)
	options.Watched, options.Declared = annotated, settings.First()
	injector := inject.Injector{Client: p.Client, Authority: authority, Gateways: p.Gateways, Survey: cluster, Options: options, Shared: p.shared}
	return p.marked(ctx, pod, outcome(injector.Enable(ctx, pod)))
}

// Disable is part of Actions.
func (p *Plugin) Disable(ctx context.Context, pod *corev1.Pod) Outcome {
	disabler := disable.Disabler{Client: p.Client, Gateways: p.Gateways, Options: disable.Options{
		DrainTimeout: p.Drain, Timeout: p.Options.Timeout, Image: p.Options.Image, PullPolicy: p.Options.PullPolicy,
	}}
	result := disabler.Disable(ctx, pod)
	if result.Err == nil {
		p.Marker.Label(ctx, pod, "")
	}
	return Outcome{Container: result.Container, Changed: result.Action == disable.Disabled, Err: result.Err}
}

// Renew is part of Actions.
func (p *Plugin) Renew(ctx context.Context, pod *corev1.Pod, container string) Outcome {
	authority, err := p.Issuer(ctx)
	if err != nil {
		return Outcome{Container: container, Err: err}
	}
	rotator := rotate.Rotator{Gateways: p.Gateways, Authority: authority, TTL: p.Options.TTL, Timeout: p.Options.Timeout}
	result := rotator.Rotate(ctx, pod)
	return Outcome{Container: container, Status: result.Status, Changed: true, Warnings: result.Warnings, Err: result.Err}
}

// Ask is part of Actions.
func (p *Plugin) Ask(ctx context.Context, pod *corev1.Pod, container string) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	gateway := p.Gateways.Gateway(pod, container)
	status, err := gateway.Status(ctx)
	if err == nil && status.State == api.Ready {
		p.Marker.Label(ctx, pod, status.Mode)
	}
	if err != nil || p.Authority == nil || status.State != api.Ready && status.State != api.Degraded {
		return status, err
	}
	// Who needs the authority tells what is wrong with it.
	authority, err := p.Issuer(ctx)
	if err != nil || authority.Revocations().Reached(status.Cert.Revocations) && !p.lacksRoots(authority, status) {
		return status, nil
	}
	authority = authority.Keeping(status.Cert.Authorities)
	if p.lacksRoots(authority, status) && !slices.Contains(authority.Roots(), status.Cert.Issuer) {
		// It was away while its certificate's root came to its end.
		return gateway.Renew(ctx, authority, p.Options.TTL)
	}
	return gateway.Trust(ctx, authority.Bundle(), authority.Revocations())
}

// lacksRoots reports whether a gateway does not trust what a signer is trusted by, because it was enabled while
// that changed.
func (p *Plugin) lacksRoots(issuer ca.Issuer, status *api.Status) bool {
	_, signed := issuer.(*signer.Signer)
	return signed && slices.ContainsFunc(issuer.Roots(), func(root string) bool { return !slices.Contains(status.Cert.Authorities, root) })
}

// overlookAfter is how long gateways that cannot be reached keep others from certificates that lead to
// a signer's new root. A signer may issue no others by then, and those of an hour end soon.
const overlookAfter = 10 * time.Minute

// FollowSigner is part of Actions.
func (p *Plugin) FollowSigner(ctx context.Context) (changed bool, warnings []string, err error) {
	if p.FollowRoots == nil {
		return false, nil, nil
	}
	issuer, err := p.Issuer(ctx)
	if err != nil {
		return false, nil, err
	}
	s, signed := issuer.(*signer.Signer)
	if !signed || s.Settled() {
		p.unsettled = time.Time{}
		return false, nil, nil
	}
	now := time.Now()
	if p.unsettled.IsZero() {
		p.unsettled = now
	}
	result, err := p.FollowRoots(ctx, now.Sub(p.unsettled) >= overlookAfter)
	if result != nil {
		for _, b := range result.Blocked {
			warnings = append(warnings, fmt.Sprintf("pod/%s -n %s (%s) was not brought the roots of signer %s: %v", b.Pod.Name, b.Pod.Namespace, b.Container, s.Name, b.Err))
		}
	}
	if err != nil {
		return false, warnings, err
	}
	// Until it is read again, what was read is older than what was done.
	p.authority.Outdate()
	p.unsettled = time.Time{}
	return true, warnings, nil
}

// Issuer returns what issues certificates, as it was some seconds ago at most.
func (p *Plugin) Issuer(ctx context.Context) (ca.Issuer, error) {
	return p.authority.Get(authorityAge, func() (ca.Issuer, error) {
		var remarks []string
		a, err := p.Authority(ctx, func(text string) { remarks = append(remarks, text) })
		// An error is told by who needs the authority.
		if p.Warn != nil && err == nil && !slices.Equal(remarks, p.remarked) {
			p.remarked = remarks
			p.Warn(remarks)
		}
		if err != nil {
			err = authorityError{err}
		}
		return a, err
	})
}

// Cluster returns what a gateway for pod has to know of the cluster. A pod with
// an address that nobody announced shows that there is something new.
func (p *Plugin) Cluster(ctx context.Context, pod *corev1.Pod) (*survey.Survey, error) {
	read := func() (*survey.Survey, error) { return p.read(ctx, *pod) }
	cluster, err := p.survey.Get(surveyAge, read)
	if err != nil || len(p.Options.Named.Capture) > 0 {
		return cluster, err
	}
	if !announced(cluster, pod) {
		return p.survey.Get(surveyPause, read)
	}
	return cluster, nil
}

// read surveys the cluster, with all pods that are known and those. It is called while
// p.survey is locked.
func (p *Plugin) read(ctx context.Context, those ...corev1.Pod) (*survey.Survey, error) {
	cluster, err := survey.Run(ctx, p.Client, append(slices.Clip(p.known), those...), p.Options.Named)
	if err != nil {
		return nil, err
	}
	p.latest.Store(cluster)
	warnings := cluster.Warnings
	if p.Options.Mode == api.Strict {
		warnings = slices.Concat(warnings, cluster.StrictUnknown())
	}
	if p.Warn != nil && !slices.Equal(warnings, p.warned) {
		p.warned = warnings
		p.Warn(warnings)
	}
	return cluster, nil
}
