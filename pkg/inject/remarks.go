package inject

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/limits"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
)

const (
	// maxSkew is how far clocks may be apart: certificates are valid from so long
	// before they were made.
	maxSkew = 5 * time.Minute
	// namedConnections is how many connections a warning names.
	namedConnections = 3
)

// differences says which settings of the gateway called name are not the ones
// asked for now. status is what the gateway says itself, nil if it was not asked:
// some settings may have changed since it was given its configuration.
func (in *Injector) differences(pod *corev1.Pod, name string, status *api.Status) []string {
	has, err := installed.ConfigOf(pod, name)
	if err != nil {
		return nil
	}
	wanted := in.configFor(pod)
	mode, rules, covers, log, limit := has.Mode, has.Rules, has.Fingerprint(), has.Log.OrDefault(), has.LimitOrDefault()
	if status != nil && status.Mode != "" {
		mode, rules, covers = status.Mode, status.Rules, cmp.Or(status.Capture.Fingerprint, covers)
		log, limit = cmp.Or(status.Log.Level, log), cmp.Or(status.Log.Limit, limit)
	}
	which := fmt.Sprintf("pod/%s -n %s", pod.Name, pod.Namespace)
	const again = "; --replace changes that"
	var list []string
	add := func(differs bool, format string, args ...any) {
		if differs {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	add(mode != wanted.Mode, "it stays in mode %s; to change that: kubectl gateway mode %s %s", mode, which, wanted.Mode)
	add(!rules.Equal(wanted.Rules), "its identity rules stay %s; to change that: kubectl gateway allow %s %s",
		rules.Arguments(), which, wanted.Rules.Arguments())
	add(log != wanted.Log.OrDefault() || limit != wanted.LimitOrDefault(), "its log stays %s of at most %s an hour; to change that: kubectl gateway log %s %s --limit=%s",
		log, installed.Size(limit), which, wanted.Log.OrDefault(), installed.Size(wanted.LimitOrDefault()))
	add(has.OnFailure != wanted.OnFailure, "it stays with on-failure %s%s", has.OnFailure, again)
	add(has.TrustDomain != wanted.TrustDomain, "it stays in trust domain %s%s", has.TrustDomain, again)
	add(has.Wire != wanted.Wire.OrDefault(), "it stays with wire %s%s", has.Wire, again)
	add(has.BlockUDP != wanted.BlockUDP, "what it does with UDP stays as it is%s", again)
	metrics := "at no port"
	if has.MetricsAddr != "" {
		metrics = "at " + has.MetricsAddr
	}
	add(has.MetricsAddr != wanted.MetricsAddr, "it goes on to serve metrics %s%s", metrics, again)
	add(covers != wanted.Fingerprint(),
		"it goes on to capture the destinations, and to accept plaintext from the sources, that it was given; to change that: kubectl gateway refresh %s", which)
	return list
}

// remarks returns what the user should know about a gateway that runs.
func (in *Injector) remarks(pod *corev1.Pod, status *api.Status) []string {
	return slices.Concat(in.certificateRemarks(pod, status), clockRemarks(pod, status, time.Now()), in.existingRemarks(status.Existing),
		memoryRemarks(status.Memory), wireRemarks(status.Wire, status.Mode), in.strictRemarks(pod, status.Mode, status.Capture.Named), logRemarks(pod, status.Log.Total))
}

// wireRemarks says what a wire does not reach.
func wireRemarks(wire api.Wire, mode api.Mode) []string {
	switch {
	case wire != api.WirePort:
		return nil
	case mode == api.Strict:
		return []string{"--wire=port does not reach Services and node ports: connections to them are refused; --wire=auto encrypts them"}
	}
	return []string{"--wire=port does not reach Services and node ports: connections to them are plaintext; --wire=auto encrypts them"}
}

// memoryRemarks says that little memory is left in the pod, in which the gateway is.
func memoryRemarks(memory *api.Memory) []string {
	if text := limits.Tight(memory); text != "" {
		return []string{text + "; raise the limit"}
	}
	return nil
}

// logRemarks says that a gateway logs no more than total bytes in all, for the pod's sake.
func logRemarks(pod *corev1.Pod, total int64) []string {
	if total == 0 {
		return nil
	}
	return []string{installed.LogRemark(pod, total) + "; --log=refused logs less"}
}

// strictRemarks says whom strict mode affects who has no gateway.
func (in *Injector) strictRemarks(pod *corev1.Pod, mode api.Mode, named api.Coverage) []string {
	if mode != api.Strict {
		return nil
	}
	return in.Survey.StrictLines(pod, named)
}

// certificateRemarks says why the certificate of a gateway that runs does not serve.
func (in *Injector) certificateRemarks(pod *corev1.Pod, status *api.Status) []string {
	var list []string
	renew := fmt.Sprintf("kubectl gateway rotate pod/%s -n %s", pod.Name, pod.Namespace)
	// One that has no certificate yet, in a dry run, will get a good one.
	if status.State == api.Uncertified {
		return nil
	}
	if status.Cert.NotAfter.Before(time.Now()) {
		list = append(list, fmt.Sprintf("its certificate ended on %s; to renew it: %s", status.Cert.NotAfter.Format(time.RFC3339), renew))
	}
	if slices.ContainsFunc(in.Authority.Roots(), func(root string) bool { return !slices.Contains(status.Cert.Authorities, root) }) {
		list = append(list, "it does not trust the authority of this command; to change that: "+renew)
	}
	return list
}

// clockRemarks says that the gateway's clock is too far from now.
func clockRemarks(pod *corev1.Pod, status *api.Status, now time.Time) []string {
	skew, where := status.Time.Sub(now), "ahead of"
	if skew < 0 {
		where = "behind"
	}
	if status.Time.IsZero() || skew.Abs() <= maxSkew {
		return nil
	}
	return []string{fmt.Sprintf("the clock of node %s is %s %s the clock of this machine, and certificates bear %s: set the one that is wrong",
		pod.Spec.NodeName, skew.Abs().Round(time.Second), where, maxSkew)}
}

// existing resets the connections from before the gateway, if that is wanted and
// was not done by the gateway itself when it started.
func (in *Injector) existing(ctx context.Context, result *Result, fresh bool) error {
	if in.Options.Existing != api.ExistingReset {
		return nil
	}
	before := 0
	if !fresh {
		if e := result.Status.Existing; e != nil {
			before = e.Reset
		}
		status, err := in.Gateways.Gateway(result.Pod, result.Container).ResetExisting(ctx)
		if err != nil {
			return fmt.Errorf("resetting connections that were open before the gateway: %w", err)
		}
		result.Status = status
	}
	if e := result.Status.Existing; e != nil {
		result.Reset = max(e.Reset-before, 0)
	}
	return nil
}

// existingRemarks says which connections stay in plaintext.
func (in *Injector) existingRemarks(existing *api.ExistingConnections) []string {
	if existing == nil || in.Options.Existing == api.ExistingLeave {
		return nil
	}
	n := max(existing.Outbound, 0) + max(existing.Inbound, 0)
	if n == 0 {
		return nil
	}
	named := lists.Map(existing.Connections[:min(len(existing.Connections), namedConnections)],
		func(c api.ExistingConnection) string { return fmt.Sprintf("%s to %s", c.Local, c.Remote) })
	text, them := fmt.Sprintf("%d connections that were open before stay in plaintext", n), "them"
	if n == 1 {
		text, them = "1 connection that was open before stays in plaintext", "it"
	}
	if len(named) > 0 {
		text += ": " + strings.Join(named, ", ")
		if n > len(named) {
			text += ", …"
		}
	}
	if in.Options.Existing == api.ExistingReset {
		return []string{text + "; the gateway could not reset " + them}
	}
	return []string{text + "; --existing=reset has the application make new ones"}
}
