package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/limits"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// A certificate is near its expiry when less than this part of its lifetime is
// left. Renewal at two thirds is the custom of certificate managers.
const nearExpiry = 3

// maxSkew is how far clocks may differ without harm: certificates are valid from that
// long before they are issued.
const maxSkew = 5 * time.Minute

// judge notes what is wrong with the gateway of i at the time now.
func (i *Item) judge(now time.Time) {
	enable := fmt.Sprintf("kubectl gateway enable pod/%s -n %s", i.Pod, i.Namespace)
	if i.moved != "" && i.State != Disabled {
		i.judgeMoved(now, enable)
	}
	switch i.State {
	case Crashed, Stopped:
		if i.moved != "" {
			break
		}
		text := "the gateway has stopped"
		if i.State == Crashed {
			text = fmt.Sprintf("the gateway crashed with exit code %d", *i.Container.ExitCode)
		}
		i.problem(Critical, because(text+i.ago(now), i.Container.lastWords())+consequence(i.OnFailure), enable)
	case NotAnswering:
		if i.left {
			i.problem(Note, "the gateway does not answer any more: the pod has finished or is being deleted", "")
			break
		}
		i.problem(Critical, "the gateway does not answer: "+i.Error, cmp.Or(i.hint, i.logs()))
	case Degraded:
		i.problem(Critical, because("the gateway is degraded", i.Status.Reason), i.logs())
	case Waiting:
		if i.moved == "" {
			i.judgeWaiting(enable)
		}
	case Starting:
		if reason := oneLine(i.Status.Reason); reason != "" {
			i.problem(Critical, "the gateway cannot start yet: "+reason, "it starts by itself once nothing is in its way")
		}
	case Uncertified:
		text := "the gateway has no certificate yet, and encrypts nothing"
		if i.Container.Sidecar {
			text = "the gateway came with the pod and has no certificate yet, for which the pod's containers wait in strict mode"
		}
		i.problem(Warning, text, enable)
	case Standby:
		i.problem(Critical, "the gateway was to take the place of one that has ended, and does not serve yet", enable)
	case Draining:
		i.problem(Note, "the gateway is being disabled: the pod's new connections are plaintext", "")
	case Disabled:
		stays := "; its container stays in the pod's list"
		if i.Container.Sidecar {
			stays = "; its container came with the pod, and stays until that is replaced"
		}
		i.problem(Note, "the gateway was disabled"+i.ago(now)+stays, "")
	}
	i.judgeSuccession()
	if i.Status != nil {
		i.judgeCertificate(now, fmt.Sprintf("kubectl gateway rotate pod/%s -n %s", i.Pod, i.Namespace))
		i.judgeClock()
		i.judgeExisting(enable)
		i.judgeMemory()
		i.judgeAudit()
		i.judgeFeatures()
		i.judgeOutside()
		i.judgeUncarried(enable)
		i.judgeNetwork()
		i.judgeLog()
	}
}

// judgeLog notes lines that are missing in the gateway's log.
func (i *Item) judgeLog() {
	l := &i.Status.Log
	if l.DroppedLines == 0 {
		return
	}
	bound, hint := fmt.Sprintf("it may have %s an hour", installed.Size(l.Limit)), fmt.Sprintf("'kubectl gateway log pod/%s -n %s refused' logs less, --limit allows more", i.Pod, i.Namespace)
	if l.Total > 0 {
		bound += fmt.Sprintf(", and %s in all for the sake of the pod's ephemeral storage", installed.Size(l.Total))
	}
	i.problem(Note, fmt.Sprintf("%d lines of the log were not written: %s", l.DroppedLines, bound), hint)
}

// judgeSuccession notes what is there of other gateways of the pod.
func (i *Item) judgeSuccession() {
	upgrade := fmt.Sprintf("kubectl gateway upgrade pod/%s -n %s", i.Pod, i.Namespace)
	switch {
	case i.Standby != "":
		i.problem(Warning, fmt.Sprintf("an upgrade has not come to its end: %s waits to take the place of %s", i.Standby, i.Container.Name), upgrade)
	case i.stuck != "":
		i.problem(Note, fmt.Sprintf("an upgrade has failed, and %s serves: %s", i.Container.Name, i.stuck), upgrade)
	case i.Drains != "":
		i.problem(Note, fmt.Sprintf("connections of %s, whose place this gateway took, may go on until its drain timeout", i.Drains), "")
	}
	if i.gateways >= installed.ManyContainers {
		i.problem(Warning, fmt.Sprintf("the pod has had %d gateways, whose containers Kubernetes cannot remove", i.gateways), "replace the pod when that is convenient, as with 'kubectl rollout restart'")
	}
}

// shownNetworks is how many networks outside of all ranges a note names.
const shownNetworks = 3

// judgeOutside notes connections into private address space that no range names: pods may
// be there that the gateway was not told of.
func (i *Item) judgeOutside() {
	c := &i.Status.Capture
	if c.OutsideConnections == 0 {
		return
	}
	networks := lists.Map(c.OutsideNetworks, func(o api.OutsideNetwork) string { return fmt.Sprintf("%d to %s", o.Connections, o.Network) })
	which := because("", lists.Words(networks, shownNetworks))
	passed, hint := c.OutsideConnections-min(c.OutsideConnections, c.OutsideRefused), "--capture-cidr names ranges of pods, and --outside=refuse refuses the rest in strict mode"
	if passed == 0 {
		i.problem(Note, fmt.Sprintf("connections into private address space that no range names were refused (%d)%s", c.OutsideRefused, which), "--capture-cidr names ranges of pods")
		return
	}
	i.problem(Note, fmt.Sprintf("not encrypted: connections into private address space that no range names (%d passed, %d refused)%s", passed, c.OutsideRefused, which), hint)
}

// judgeUncarried notes connections to captured ranges that the gateway could not carry.
func (i *Item) judgeUncarried(enable string) {
	note := func(n uint64, refused bool, which, hint string) {
		verdict := "not encrypted"
		if refused {
			verdict = "not carried"
		}
		if n > 0 {
			i.problem(Note, fmt.Sprintf("%s: connections %s (%d)", verdict, which, n), hint)
		}
	}
	c, strict := &i.Status.Capture, i.Status.Mode == api.Strict
	// The mode may have been another one when they were counted, and the wire that of a gateway before this one.
	const services, refuses = "to Services, which --wire=port does not reach", "strict mode refuses them, permissive mode lets them pass in plaintext"
	reach := enable + " --replace --wire=auto"
	if i.Status.Wire != api.WirePort {
		reach = "a gateway before this one had --wire=port"
	}
	note(c.ServicePassed, false, services, reach)
	note(c.ServiceRefused, true, services, reach)
	note(c.Uncapturable, strict, "of sockets that are bound to a device, or for which the kernel had no memory", refuses)
	note(c.Nested, strict, "from network namespaces within the pod, such as those of containers in it", refuses)
	note(c.Forwarded, strict, "that the pod forwards for others, or that a process writes to a raw socket", refuses)
	note(c.NoListener, strict || i.Status.OnFailure == api.FailClosed, "while no worker of the gateway listened",
		"strict mode and --on-failure=closed refuse them, otherwise they are plaintext")
}

// judgeNetwork warns of a network that drops packets with the gateways' TCP option.
func (i *Item) judgeNetwork() {
	if n := i.Status.Traffic.Outbound.OptionDropped; n > 0 {
		i.problem(Warning, fmt.Sprintf("not encrypted: connections to Services (%d), as something on the way drops packets with the gateways' TCP option", n),
			"let TCP option 253 pass (RFC 4727), or use headless Services with --wire=port")
	}
}

// because adds a reason, if it is known.
func because(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + reason
}

// logs is the command that shows the gateway's log.
func (i *Item) logs() string {
	return fmt.Sprintf("kubectl logs %s -n %s -c %s", i.Pod, i.Namespace, i.Container.Name)
}

// ago says how long ago the container of i has ended.
func (i *Item) ago(now time.Time) string {
	if finished := i.Container.FinishedAt; !finished.IsZero() {
		return " " + duration.HumanDuration(now.Sub(finished)) + " ago"
	}
	return ""
}

// judgeMoved is about a gateway that was not made for the pod's present sandbox. How
// it ended, and what its on-failure says, counts no more once the node started again.
func (i *Item) judgeMoved(now time.Time, enable string) {
	switch i.State {
	case Crashed, Stopped:
		i.problem(Critical, "the gateway has ended"+i.ago(now)+", and "+i.moved+": the pod's new connections may be plaintext", enable)
	case Waiting:
		i.problem(Critical, i.moved+", and none works: the pod's new connections may be plaintext", enable)
	default:
		i.problem(Critical, i.moved+": peers refuse its certificate",
			fmt.Sprintf("'kubectl gateway disable pod/%s -n %s', then enable it again", i.Pod, i.Namespace))
	}
}

// judgeClock compares the gateway's clock with this machine's, by which it signs.
func (i *Item) judgeClock() {
	direction := "ahead of"
	if i.skew < 0 {
		direction = "behind"
	}
	if i.skew.Abs() > maxSkew {
		i.problem(Warning, fmt.Sprintf("the clock of node %s is %s %s that of this machine", i.Node, duration.HumanDuration(i.skew.Abs()), direction),
			"set both clocks: certificates may be refused as expired or not valid yet")
	}
}

// judgeExisting notes the connections that are no gateway's, most of which are older
// than this one.
func (i *Item) judgeExisting(enable string) {
	e := i.Status.Existing
	if e == nil || e.Outbound+e.Inbound <= 0 {
		return
	}
	i.problem(Warning, fmt.Sprintf("not encrypted: open connections beside the gateway, most from before it (%d outbound, %d inbound)", e.Outbound, e.Inbound),
		enable+" --existing=reset")
}

// judgeMemory notes that the pod's memory is, or was, nearly used up.
func (i *Item) judgeMemory() {
	m := i.Status.Memory
	const hint = "raise the pod's memory limit, or have more pods share its connections"
	if text := limits.Tight(m); text != "" {
		severity := Warning
		if m.Room == 0 {
			severity = Critical
		}
		i.problem(severity, text, hint)
	}
	if m != nil && m.Killed > 0 {
		i.problem(Warning, fmt.Sprintf("the pod's memory was used up, and the kernel killed processes of the gateway (%d): their connections were reset", m.Killed), hint)
	}
}

// judgeAudit notes that identity rules refuse nobody.
func (i *Item) judgeAudit() {
	if s := i.Status; s.Audit {
		i.problem(Note, fmt.Sprintf("the identity rules refuse nobody (--audit); they would have refused %d connections", s.Traffic.Inbound.Audited),
			fmt.Sprintf("'kubectl gateway allow pod/%s -n %s' with the same rules and without --audit enforces them", i.Pod, i.Namespace))
	}
}

// judgeFeatures notes what a gateway that works cannot do, and what it sees but
// does not encrypt.
func (i *Item) judgeFeatures() {
	for _, missing := range i.Status.Missing {
		hint := "a newer kernel of the node may have what is missing"
		switch {
		case strings.HasPrefix(missing, api.MissingConfinement):
			hint = "the node's kernel lacks CONFIG_SECCOMP_FILTER: whoever breaks into the worker has all system calls of a process without privilege"
		case strings.HasPrefix(missing, api.MissingProtection):
			hint = "the node withholds CAP_SYS_RESOURCE from privileged containers: the kernel may kill the whole gateway, which nobody starts again"
		}
		i.problem(Warning, "the gateway works without "+oneLine(missing), hint)
	}
	switch c := i.Status.Capture; {
	case c.UDP == 0:
	case c.UDP == c.UDPRefused:
		i.problem(Note, fmt.Sprintf("UDP to captured ranges was refused (seen %d times)", c.UDP), "")
	default:
		hint := "gateways encrypt TCP alone; 'enable --mode=strict --block-udp' refuses UDP"
		if i.Status.Mode != api.Strict && c.BlockUDP {
			hint = "gateways encrypt TCP alone; in strict mode this one refuses UDP"
		}
		i.problem(Note, fmt.Sprintf("not encrypted: UDP to captured ranges (seen %d times)", c.UDP-c.UDPRefused), hint)
	}
	if c := i.Status.Capture; c.BlockUDP && i.Status.Mode == api.Strict && c.UDPAnswers > 0 {
		i.problem(Note, fmt.Sprintf("not encrypted: UDP from port 53 to captured ranges (seen %d times)", c.UDPAnswers),
			"name servers answer from that port; in any other pod, look who uses it")
	}
}

// Compare notes what the gateway of pod lacks of the cluster, and what it has too much.
func (i *Item) Compare(cluster *survey.Survey, pod *corev1.Pod) {
	// What a sidecar captures comes with its first certificate.
	if i.Status == nil || i.State == Draining || i.State == Uncertified && i.Status.Sidecar {
		return
	}
	drift := cluster.Drift(pod, &i.Status.Capture)
	i.Lacks = drift.Lacks
	refresh := strings.Join(append([]string{"kubectl gateway refresh pod/" + i.Pod + " -n " + i.Namespace}, drift.Flags...), " ")
	if len(drift.Extra) > 0 {
		i.first(Warning, "the gateway captures, or lets pass, what the cluster does not have: "+survey.List(drift.Extra), refresh)
	}
	if len(drift.Lacks) > 0 {
		consequence := "what strict mode refuses there should pass"
		if slices.ContainsFunc(drift.Lacks, func(p survey.Part) bool {
			return slices.Contains([]string{survey.PartPods, survey.PartServices, survey.PartNode, survey.PartEndpoint}, p.What)
		}) {
			consequence = "connections there are plaintext"
		}
		i.first(Critical, "the gateway does not know "+survey.List(drift.Lacks)+": "+consequence, refresh)
	}
}

// first is problem for what is found after all others: it stands before those that are less
// urgent.
func (i *Item) first(severity Severity, text, hint string) {
	at := len(i.Problems)
	for n, p := range i.Problems {
		if severity == Critical && p.Severity != Critical || severity == Warning && p.Severity == Note {
			at = n
			break
		}
	}
	i.Problems = slices.Insert(i.Problems, at, Problem{Severity: severity, Text: text, Hint: hint})
}

// judgeWaiting tells a container that is about to start from one that has a
// reason not to.
func (i *Item) judgeWaiting(enable string) {
	reason := i.Container.Reason
	switch reason {
	case "", "ContainerCreating", "PodInitializing":
		return
	}
	text := because("the gateway's container does not start: "+reason, i.Container.lastWords())
	hint := fmt.Sprintf("kubectl describe pod %s -n %s", i.Pod, i.Namespace)
	if reason == "CreateContainerConfigError" && strings.Contains(i.Container.Message, "not found") {
		text += "; the kubelet tries to start it again, as in a new sandbox, and its Secret is there for the first start alone"
		hint = enable
	}
	i.problem(Critical, text, hint)
}

// judgeCertificate is given what to do about a certificate that ends.
func (i *Item) judgeCertificate(now time.Time, rotate string) {
	from, to := i.Status.Cert.NotBefore, i.Status.Cert.NotAfter
	left := to.Sub(now)
	severity, text, hint := Critical, "", rotate
	switch {
	case to.IsZero():
		return
	case i.Status.Cert.Revoked:
		text = "the certificate is revoked: peers refuse it"
	case left <= 0:
		text = "the certificate expired " + duration.HumanDuration(-left) + " ago: peers refuse it"
	case now.Before(from):
		text = "the certificate is not valid before " + duration.HumanDuration(from.Sub(now)) + " from now"
		hint = "compare the clock of this machine with those of the nodes"
	case left < to.Sub(from)/nearExpiry:
		severity, text = Warning, "the certificate expires in "+duration.HumanDuration(left)
	default:
		return
	}
	i.problem(severity, text, hint)
	i.Problems[len(i.Problems)-1].certificate = true
}

func (i *Item) problem(severity Severity, text, hint string) {
	i.Problems = append(i.Problems, Problem{Severity: severity, Text: text, Hint: hint})
}

// consequence says what the end of a gateway means for the pod's traffic.
func consequence(onFailure api.OnFailure) string {
	switch onFailure {
	case api.FailOpen:
		return "; on-failure is open: the pod's new connections are plaintext"
	case api.FailClosed:
		return "; on-failure is closed: the pod's new connections to captured ranges fail"
	}
	return ""
}

// lastWords returns the container's message in one line, or else the reason for
// its end if that says more than "Error".
func (c *Container) lastWords() string {
	words := oneLine(c.Message)
	if words == "" && c.ExitCode != nil && c.Reason != "Error" && c.Reason != "Completed" {
		words = c.Reason
	}
	return words
}

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
