package watch

import (
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// LeafTTL is how long the certificates are valid that a watch brings which goes on, unless the user or a signer
// decides: a key that was stolen without anybody's knowledge is of use for a day at most. Who renews at two
// thirds of that may be away for 8 hours.
const LeafTTL = 24 * time.Hour

const (
	// firstDelay is waited before the second gateway in a row that died young is
	// replaced; it doubles from one to the next up to maxDelay. The first is
	// replaced at once.
	firstDelay = 10 * time.Second
	maxDelay   = 5 * time.Minute
	// young is the age below which the death of a gateway suggests that the next
	// one will die, too.
	young = 10 * time.Minute
	// crowd is how many gateways in a row may die young before crowdDelay is
	// waited between them: each stays in the pod's spec, which is bounded by
	// etcd's limit for an object (1.5 MiB).
	crowd      = 40
	crowdDelay = time.Hour

	// Renewals of certificates that were issued together are spread over a twentieth of their life,
	// or over an hour if that is more and no more than a fifth of it: short lives have no
	// wave either. They come before two thirds, where status begins to warn.
	renewalJitter = 0.05
	leastJitter   = time.Hour
	mostJitter    = 0.2
	// renewalPause is the least time between two renewals of one gateway. An
	// authority near its own end issues certificates that are short already.
	renewalPause = 10 * time.Second

	// askInterval is the time between two questions to a gateway that is ready,
	// askSoon to one that is on its way to another state. Both are spread by up
	// to a fifth.
	askInterval = 10 * time.Minute
	askSoon     = 15 * time.Second
)

// step is what is to be done about a pod.
type step string

const (
	// rest means that only a change of the pod can make anything necessary.
	rest step = ""
	// enable adds a gateway, or brings to readiness the one that is on its way.
	toEnable  step = "enable"
	toDisable step = "disable"
	toRenew   step = "renew"
	// refresh brings the gateway what the cluster has by now.
	toRefresh step = "refresh"
	// apply brings the gateway what is declared about it.
	toApply step = "apply"
	// upgrade puts a gateway with the image of watch in the place of an older one.
	toUpgrade step = "upgrade"
	// ask asks the gateway for its status.
	toAsk step = "ask"
	// wait looks again at a known time.
	wait step = "wait"
)

// changes reports whether s changes the cluster, or the gateway's keys. A refresh needs no
// second look at the pod: the gateway's answer says whose it is.
func (s step) changes() bool {
	return s == toEnable || s == toDisable || s == toRenew || s == toUpgrade
}

// decision is what decide returns.
type decision struct {
	step step
	// at is when to look again, for wait.
	at time.Time
	// trouble is why the pod has no gateway that works although one is wanted,
	// if that is for others to change.
	trouble error
}

// situation is all that a decision depends on, besides the time.
type situation struct {
	pod  *corev1.Pod
	want want
	// image is what a new gateway would run.
	image string
	// status is the last answer of the pod's current gateway, nil if there is
	// none, and askAt when it is to be asked again.
	status *api.Status
	askAt  time.Time
	// renewed is when its certificate was last renewed.
	renewed time.Time
	// behind says that the cluster has something else than the gateway captures.
	behind bool
	// settings are what is declared about the gateway, and apart says that something of it is not in force that
	// changes in place. otherwise says so of what does not.
	settings         declared.Settings
	apart, otherwise bool
	// older says that the gateway is to be upgraded, and open that this may be done at once.
	older, open bool
	// ended names the gateway that was disabled successfully, whatever the pod
	// says about it.
	ended string
	// refused is the state of the pod that was refused, which decide leaves to its caller.
	refused *corev1.Pod
}

// decide says what is to be done about a pod at the time now.
func decide(s situation, now time.Time) decision {
	if !eligible(s.pod) {
		return decision{}
	}
	gateway, has := installed.Current(s.pod)
	// A sidecar shows that it was asked for.
	on := s.want == wanted || s.want == named || s.want == unclear && gateway.Sidecar
	off := s.want == unwanted || s.want == unsaid && has && watched(s.pod, gateway.Name)
	switch {
	case !has && on:
		return decision{step: toEnable}
	case !has:
		return decision{}
	case gateway.Sidecar && gateway.Phase != installed.Running && !gateway.Disabled():
		return restarts(s, gateway)
	case off:
		return end(s, gateway)
	case gateway.Phase == installed.Terminated && on:
		return replace(s.pod, now)
	case gateway.Phase == installed.Waiting && on:
		return hasten(s, gateway)
	case gateway.Phase != installed.Running:
		return decision{}
	case on && moved(s.pod, gateway.Name):
		// A gateway serves the addresses that it was given. When it is gone, the
		// pod gets one for its new ones.
		return decision{step: toDisable}
	}
	return maintain(s, gateway, on, now)
}

// eligible reports whether pod is in a state in which anything can be done about
// its gateway. Behind a sidecar all other containers may wait.
func eligible(pod *corev1.Pod) bool {
	return (pod.Status.Phase == corev1.PodRunning || installed.SidecarRuns(pod)) && pod.DeletionTimestamp == nil && pod.Status.PodIP != "" && !finished(pod)
}

// finished reports whether all of the application's containers have ended for
// good: the pod is about to complete, and its gateway has rightly ended.
func finished(pod *corev1.Pod) bool {
	if pod.Spec.RestartPolicy != corev1.RestartPolicyNever && pod.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	ended := 0
	for _, status := range pod.Status.ContainerStatuses {
		t := status.State.Terminated
		if t == nil || t.ExitCode != 0 && pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure {
			return false
		}
		ended++
	}
	return ended > 0 && ended >= len(pod.Spec.Containers)
}

// restarts decides about a sidecar whose container does not run: the kubelet starts it.
func restarts(s situation, gateway installed.Gateway) decision {
	switch gateway.Reason {
	case "", "ContainerCreating", "PodInitializing":
		return decision{}
	}
	if gateway.Phase == installed.Terminated {
		return decision{}
	}
	return hasten(s, gateway)
}

// end decides about a pod that is to have no gateway.
func end(s situation, gateway installed.Gateway) decision {
	switch {
	case gateway.Disabled(), gateway.Name == s.ended:
		return decision{}
	case gateway.Phase == installed.Waiting:
		// Nothing runs that could be asked to go. If it starts, that is a change.
		return decision{}
	case s.status != nil && s.status.State == api.Draining:
		return decision{step: wait, at: s.askAt}
	}
	return decision{step: toDisable}
}

// replace decides when the gateway of pod, which has ended, gets a successor.
func replace(pod *corev1.Pod, now time.Time) decision {
	all := installed.Gateways(pod)
	last := all[len(all)-1]
	deaths := 0
	for _, gateway := range slices.Backward(all) {
		if gateway.Phase != installed.Terminated || gateway.Disabled() || gateway.FinishedAt.Sub(gateway.StartedAt) >= young {
			break
		}
		deaths++
	}
	var delay time.Duration
	switch {
	case deaths > crowd:
		delay = crowdDelay
	case deaths > 1:
		delay = min(firstDelay<<min(deaths-2, 16), maxDelay)
	}
	if at := last.FinishedAt.Add(delay); at.After(now) {
		return decision{step: wait, at: at}
	}
	return decision{step: toEnable}
}

// hasten decides about a container that has not started. The kubelet tries again
// by itself what can be tried again, such as pulling the image: another container
// would only add to those that stay in the pod forever.
func hasten(s situation, gateway installed.Gateway) decision {
	switch gateway.Reason {
	case "", "ContainerCreating", "PodInitializing", "CreateContainerConfigError":
		if gateway.Sidecar {
			break
		}
		// With the last one its Secret is gone for good.
		return decision{step: toEnable}
	}
	if gateway.Image != s.image && !gateway.Sidecar {
		return decision{step: toEnable}
	}
	err := fmt.Errorf("container %s cannot start: %s", gateway.Name, gateway.Reason)
	if gateway.Message != "" {
		err = fmt.Errorf("%w: %s", err, gateway.Message)
	}
	return decision{trouble: api.WithHint(err,
		fmt.Sprintf("the kubelet tries again; 'kubectl describe pod %s -n %s' shows the events of the pod", s.pod.Name, s.pod.Namespace))}
}

// maintain decides about gateway, which runs and may stay. on says that one is
// wanted; others are kept from expiring and are otherwise let alone.
func maintain(s situation, gateway installed.Gateway, on bool, now time.Time) decision {
	if s.status == nil || !now.Before(s.askAt) {
		return decision{step: toAsk}
	}
	switch s.status.State {
	case api.Uncertified, api.Starting, api.Standby:
		// Where another one is to be replaced, another plugin is at it, or was: it takes over soon, or ends
		// by itself.
		if _, waits := installed.Predecessor(s.pod, gateway); on && !waits {
			return decision{step: toEnable}
		}
		return decision{step: wait, at: s.askAt}
	case api.Draining:
		return decision{step: wait, at: s.askAt}
	case api.Disabled:
		if on {
			return decision{step: toEnable}
		}
		return decision{}
	}
	if s.older && s.open && s.status.State == api.Ready {
		return decision{step: toUpgrade}
	}
	at, known := RenewAt(s.status.Cert, string(s.pod.UID))
	at = slices.MaxFunc([]time.Time{at, s.renewed.Add(renewalPause)}, time.Time.Compare)
	switch {
	case known && !at.After(now):
		return decision{step: toRenew}
	case s.behind:
		return decision{step: toRefresh}
	case s.apart:
		return decision{step: toApply}
	case !known || at.After(s.askAt):
		at = s.askAt
	}
	return decision{step: wait, at: at}
}

// RenewAt returns when a certificate is to be renewed: at two thirds of its life,
// or before that, depending on who: up to a twentieth of a long life, and a fifth of a short one. The result is false
// if the certificate says nothing about its life.
func RenewAt(cert api.Certificate, who string) (time.Time, bool) {
	if cert.NotAfter.IsZero() || !cert.NotBefore.Before(cert.NotAfter) {
		return time.Time{}, false
	}
	from := cert.NotBefore
	// The part of it before its issue is no life.
	if issued := from.Add(ca.Backdate); issued.Before(cert.NotAfter) {
		from = issued
	}
	life := cert.NotAfter.Sub(from)
	jitter := max(renewalJitter, min(mostJitter, float64(leastJitter)/float64(life)))
	part := 2.0/3 - jitter*spread(who, cert.Serial)
	return from.Add(time.Duration(part * float64(life))), true
}

// spread returns a number of at least 0 and below 1 that depends on words alone.
func spread(words ...string) float64 {
	sum := fnv.New32a()
	for _, word := range words {
		_, _ = sum.Write([]byte(word))
		_, _ = sum.Write([]byte{0})
	}
	return float64(sum.Sum32()) / (1 << 32)
}

// watched reports whether the gateway called name was added by watch, because of
// an annotation.
func watched(pod *corev1.Pod, name string) bool {
	config, err := installed.ConfigOf(pod, name)
	return err == nil && config.Watched
}

// moved reports whether pod has other addresses than its gateway called name was
// told. One whose configuration cannot be read is left alone.
func moved(pod *corev1.Pod, name string) bool {
	config, err := installed.ConfigOf(pod, name)
	return err == nil && installed.OtherAddresses(pod, config)
}
