package status

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Kind and APIVersion of a List. Fields are only ever added under one version.
const (
	Kind       = "GatewayStatusList"
	APIVersion = "kubectl-gateway.github.io/v1alpha1"
)

// List is what status prints with -o json and -o yaml.
type List struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Items      []Item `json:"items"`
	// NotCompared says why it is not known whether gateways capture what the cluster has.
	NotCompared string `json:"notCompared,omitempty"`
	// NotDeclared says why it is not known where settings come from.
	NotDeclared string `json:"notDeclared,omitempty"`
}

// State sums up one pod's gateway in a word or two.
type State string

// The states of gateways that answer are the gateways' own: see api.State. The
// others are the plugin's.
const (
	// NotEnabled is a pod that never had a gateway.
	NotEnabled State = "not enabled"
	// Waiting is a gateway whose container has not started.
	Waiting State = "waiting"
	// NotAnswering is a gateway whose container runs, but that could not be
	// asked: Error says why.
	NotAnswering State = "not answering"
	// Crashed is a gateway that has ended with an exit code other than 0.
	Crashed State = "crashed"
	// Stopped is a gateway that has ended with exit code 0, and was not disabled.
	Stopped State = "stopped"
	// Disabled is a gateway that was disabled and has left nothing behind. Its
	// container stays in the pod's list.
	Disabled State = "disabled"

	Starting    = State(api.Starting)
	Uncertified = State(api.Uncertified)
	Ready       = State(api.Ready)
	Degraded    = State(api.Degraded)
	Standby     = State(api.Standby)
	Draining    = State(api.Draining)
)

// Item is the status of the gateway that serves a pod, or of the newest one.
type Item struct {
	Namespace string       `json:"namespace"`
	Pod       string       `json:"pod"`
	Node      string       `json:"node,omitempty"`
	PodIPs    []netip.Addr `json:"podIPs,omitempty"`
	State     State        `json:"state"`
	// Mode and OnFailure are also known of a gateway that does not answer.
	Mode      api.Mode      `json:"mode,omitempty"`
	OnFailure api.OnFailure `json:"onFailure,omitempty"`
	// Container is nil if the pod is not enabled.
	Container *Container `json:"container,omitempty"`
	// Standby is the container of another gateway that is to take this one's place, and Drains
	// that of one whose place this one took and whose last connections go on.
	Standby string `json:"standby,omitempty"`
	Drains  string `json:"drains,omitempty"`
	// Status is what the gateway says itself, nil if it was not asked or did
	// not answer.
	Status *api.Status `json:"status,omitempty"`
	// Settings are those that annotations can declare, and where each comes from. They are empty if the gateway did not answer.
	Settings []Setting `json:"settings,omitempty"`
	// Lacks are the ranges and addresses of the cluster that the gateway does not know of.
	Lacks []survey.Part `json:"lacks,omitempty"`
	// Error says why the gateway could not be asked.
	Error string `json:"error,omitempty"`
	// Problems are what somebody should look at, the worst first.
	Problems []Problem `json:"problems,omitempty"`
	// hint is the advice that came with Error, and left says that the pod has finished or is being deleted.
	hint string
	left bool
	// skew is how far the gateway's clock is ahead of this machine's, at least.
	skew time.Duration
	// moved is what shows that the pod has another sandbox than the gateway was made
	// in, with other addresses or without; empty if nothing does.
	moved string
	// gateways is how many the pod has had, and stuck why one that is to take this one's place
	// does not start.
	gateways int
	stuck    string
}

// Names returns the pods of l as -o name prints them, a line each.
func (l *List) Names() string {
	var names strings.Builder
	for i := range l.Items {
		names.WriteString("pod/" + terminal.Clean(l.Items[i].Pod) + "\n")
	}
	return names.String()
}

// Unread reports whether l lacks the status of a gateway that should have
// answered.
func (l *List) Unread() bool {
	return slices.ContainsFunc(l.Items, func(i Item) bool { return i.State == NotAnswering && !i.left })
}

// Expiring returns the items whose certificates end within so long from now, or have
// ended. A gateway that is being disabled needs none any more.
func (l *List) Expiring(within time.Duration, now time.Time) []*Item {
	var found []*Item
	for n := range l.Items {
		i := &l.Items[n]
		if i.Status == nil || i.State == Draining || i.Status.Cert.NotAfter.IsZero() {
			continue
		}
		if i.Status.Cert.NotAfter.Sub(now) <= within {
			found = append(found, i)
		}
	}
	return found
}

// Container is the gateway's container as the kubelet reports it.
type Container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	// Sidecar says that it came with the pod, and is started again whenever it ends.
	Sidecar bool `json:"sidecar,omitempty"`
	// Reason and Message are the kubelet's words; Message is the gateway's own
	// last words if it left any.
	Reason     string    `json:"reason,omitempty"`
	Message    string    `json:"message,omitempty"`
	ExitCode   *int32    `json:"exitCode,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
}

// Severity says how urgent a problem is.
type Severity string

const (
	// Note is nothing wrong with the gateway, but worth to know.
	Note Severity = "note"
	// Warning is a problem to come, or something that is missing.
	Warning Severity = "warning"
	// Critical is a problem now.
	Critical Severity = "critical"
)

// Problem is something that is wrong with a gateway.
type Problem struct {
	Severity Severity `json:"severity"`
	// Text is one sentence, Hint what to do about it.
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
	// certificate says that the problem is the certificate's, not the gateway's.
	certificate bool
}
