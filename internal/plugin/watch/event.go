package watch

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
)

// Action is what happened.
type Action string

const (
	// Enabled is a pod whose first gateway is ready, Replaced one whose gateway
	// took over from another one.
	Enabled  Action = "enabled"
	Replaced Action = "replaced"
	Disabled Action = "disabled"
	Renewed  Action = "renewed"
	// Changed is a gateway that was brought the settings that are declared.
	Changed Action = "changed"
	// Refreshed is a gateway that captures what the cluster has by now.
	Refreshed Action = "refreshed"
	// Upgraded is a gateway with the image of watch that took the place of an older one. Halted
	// says that none is any more, because of the pod that is named, until Resumed.
	Upgraded Action = "upgraded"
	Halted   Action = "halted"
	Resumed  Action = "resumed"
	// Failed is tried again, with growing pauses.
	Failed Action = "failed"
	// Refused is a pod that can have no gateway, or an annotation that cannot be used. It is looked at again
	// when it changes.
	Refused Action = "refused"
	// Signed is a request that was answered with a certificate, and Denied one that was refused, as the cluster's
	// signer ('watch --sign').
	Signed Action = "signed"
	Denied Action = "denied"
	// Disconnected and Reconnected are about the API server; no pod is named.
	Disconnected Action = "disconnected"
	Reconnected  Action = "reconnected"
	// Noticed carries nothing but warnings.
	Noticed Action = "noticed"
)

// Event is something worth telling. Its words may come from anybody in the
// cluster: clean them before they reach a terminal.
type Event struct {
	Time      time.Time
	Namespace string
	Pod       string
	UID       types.UID
	Action    Action
	// Container is the gateway that this is about.
	Container string
	// Request is what a signer has answered, as kubectl names it, and Identity whom the certificate names.
	Request, Identity string
	// Elapsed is how long it took.
	Elapsed time.Duration
	// NotAfter is when the gateway's certificate ends, zero if unknown.
	NotAfter time.Time
	// Covered is what was refreshed, and Settings are those that were changed.
	Covered  *change.Covered
	Settings declared.Settings
	Warnings []string
	Err      error
	// Again is when it is tried again, zero if only a change can help.
	Again time.Time
}

// Counts is the state of everything that is watched.
type Counts struct {
	// Watched pods have a gateway or are to have one. Each of them is Ready,
	// Working (something is being done about it, or is to be), or Failed.
	Watched, Ready, Working, Failed int
	// NextRenewal is when the next certificate is to be renewed, zero if unknown.
	NextRenewal time.Time
	// Outdated counts the gateways that are to be upgraded, and Halted is why none is.
	Outdated int
	Halted   error
	// Connected is false while the API server cannot be reached.
	Connected bool
}

// phase is where a pod stands, for Counts.
type phase int

const (
	working phase = iota
	ready
	failed
	// off is a pod that has no gateway any more and is to have none.
	off
)

// Outcome is what became of one step.
type Outcome struct {
	Container string
	// Status is what the gateway said, nil if it did not.
	Status *api.Status
	// Changed is false if there was nothing to do.
	Changed bool
	// Covered is what a refresh has changed, and Settings are those that Apply has.
	Covered  *change.Covered
	Settings declared.Settings
	Warnings []string
	Err      error
	// Refused says that Err comes from the pod's own nature.
	Refused bool
}
