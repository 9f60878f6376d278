// Package change changes the settings of gateways that run, many at a time.
package change

import (
	"cmp"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// DefaultTimeout bounds how long one gateway may take. It gives a worker
// more than twice the time after which the gateway gives it up.
const DefaultTimeout = 15 * time.Second

// Change is what is to be changed: the mode, or the log, or the identity rules.
type Change struct {
	// Mode and Log are empty for a change of the rules.
	Mode api.Mode
	Log  api.Log
	// LogLimit is the limit of the log in bytes an hour, 0 to leave it.
	LogLimit int64
	Rules    api.Rules
	// Existing decides about open connections that the change forbids. Empty means
	// api.ExistingLeave; api.ExistingReset resets them.
	Existing api.Existing
}

// Result is the outcome for one pod.
type Result struct {
	Pod       *corev1.Pod
	Container string
	// Status is what the gateway says after the change, nil if it failed.
	Status *api.Status
	// Covered is what became of its coverage, nil if that was not looked at.
	Covered *Covered
	// Warnings are for the user, one line each.
	Warnings []string
	// Err is why the gateway was not changed, or why that is not known. Its
	// words may be the gateway's: clean them before they reach a terminal.
	Err error
}

// Changer changes gateways. It is safe for concurrent use.
type Changer struct {
	Gateways *remote.Client
	// Timeout of one gateway is DefaultTimeout if zero.
	Timeout time.Duration
	// Carry, if not nil, is brought along by changes: before strict mode, and after a change
	// of the rules.
	Carry *Cover
	// Survey, if not nil, tells whom strict mode affects who has no gateway.
	Survey *survey.Survey
}

// Change changes the gateway that runs in pod.
func (c *Changer) Change(ctx context.Context, pod *corev1.Pod, change Change) Result {
	result := Result{Pod: pod}
	result.Container, result.Err = c.Gateways.Ask(ctx, pod, cmp.Or(c.Timeout, DefaultTimeout), "the change may have been made", func(ctx context.Context, conn *remote.Conn) (err error) {
		if c.Carry != nil && change.Mode == api.Strict {
			// What keeps the gateway from answering, the change says as well.
			before, _ := conn.Status(ctx)
			c.along(ctx, conn, before, &result)
		}
		switch {
		case change.Mode != "":
			result.Status, err = conn.SetMode(ctx, change.Mode, change.Existing)
		case change.Log != "":
			result.Status, err = conn.SetLog(ctx, change.Log, change.LogLimit)
		default:
			if result.Status, err = conn.SetRules(ctx, change.Rules, change.Existing); err == nil {
				c.along(ctx, conn, result.Status, &result)
			}
		}
		return err
	})
	if result.Err == nil {
		result.Warnings = append(result.Warnings, warnings(change, result.Status)...)
		if change.Mode != "" {
			result.Warnings = append(result.Warnings, strictLines(pod, c.Survey, result.Status)...)
		}
	}
	return result
}

func warnings(change Change, status *api.Status) []string {
	var list []string
	if change.Mode == api.Strict && status.OnFailure == api.FailOpen {
		list = append(list, "on-failure stays open: without its gateway the pod would connect in plaintext, until it is replaced and enabled with --mode=strict")
	}
	if status.State != api.Ready {
		list = append(list, fmt.Sprintf("the gateway is %.40q; the change holds once it works again", status.State))
	}
	return list
}
