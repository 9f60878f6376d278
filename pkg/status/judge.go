package status

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// A certificate is near its expiry when less than this part of its lifetime is
// left. Renewal at two thirds is the custom of certificate managers.
const nearExpiry = 3

// judge notes what is wrong with the gateway of i at the time now.
func (i *Item) judge(now time.Time) {
	enable := fmt.Sprintf("kubectl gateway enable pod/%s -n %s", i.Pod, i.Namespace)
	switch i.State {
	case Crashed, Stopped:
		text := "the gateway has stopped"
		if i.State == Crashed {
			text = fmt.Sprintf("the gateway crashed with exit code %d", *i.Container.ExitCode)
		}
		if finished := *i.Container.FinishedAt; !finished.IsZero() {
			text += " " + duration.HumanDuration(now.Sub(finished)) + " ago"
		}
		if words := i.Container.lastWords(); words != "" {
			text += ": " + words
		}
		i.problem(Critical, text+consequence(i.OnFailure), enable)
	case NotAnswering:
		hint := i.hint
		if hint == "" {
			hint = fmt.Sprintf("kubectl logs %s -n %s -c %s", i.Pod, i.Namespace, i.Container.Name)
		}
		i.problem(Critical, "the gateway does not answer: "+i.Error, hint)
	case Degraded:
		text := "the gateway is degraded"
		if i.Status.Reason != "" {
			text += ": " + i.Status.Reason
		}
		i.problem(Critical, text, fmt.Sprintf("kubectl logs %s -n %s -c %s", i.Pod, i.Namespace, i.Container.Name))
	case Waiting:
		i.judgeWaiting()
	}
	if i.Status != nil {
		i.judgeCertificate(now, "a gateway keeps its certificate: replace the pod, then "+enable)
		i.judgeFeatures()
	}
}

// judgeFeatures notes what a gateway that works cannot do, and what it sees but
// does not encrypt.
func (i *Item) judgeFeatures() {
	for _, missing := range i.Status.Missing {
		i.problem(Warning, "the gateway works without "+oneLine(missing), "a newer kernel of the node may have what is missing")
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
}

// judgeWaiting tells a container that is about to start from one that has a
// reason not to.
func (i *Item) judgeWaiting() {
	reason := i.Container.Reason
	switch reason {
	case "", "ContainerCreating", "PodInitializing":
		return
	}
	text := "the gateway's container does not start: " + reason
	if words := i.Container.lastWords(); words != "" {
		text += ": " + words
	}
	i.problem(Critical, text, fmt.Sprintf("kubectl describe pod %s -n %s", i.Pod, i.Namespace))
}

// judgeCertificate is given what to do about a certificate that ends: enable
// alone leaves a gateway that runs as it is.
func (i *Item) judgeCertificate(now time.Time, replace string) {
	from, to := i.Status.Cert.NotBefore, i.Status.Cert.NotAfter
	left := to.Sub(now)
	severity, text, hint := Critical, "", replace
	switch {
	case to.IsZero():
		return
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
