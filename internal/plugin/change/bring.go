package change

import (
	"cmp"
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// Bring changes the gateway that runs in pod to those of settings that change in place, and returns which those were: none
// if all are in force. Connections that are open stay. cluster is what the cluster has.
func (c *Changer) Bring(ctx context.Context, pod *corev1.Pod, settings declared.Settings, cluster *survey.Survey) (result Result, changed declared.Settings) {
	result.Pod = pod
	result.Container, result.Err = c.Gateways.Ask(ctx, pod, cmp.Or(c.Timeout, DefaultTimeout), "some settings may have been changed", func(ctx context.Context, conn *remote.Conn) (err error) {
		if result.Status, err = conn.Status(ctx); err != nil {
			return err
		}
		is := declared.InForce(result.Status)
		changed, _ = settings.Missing(is)
		next := *is
		changed.Change(&next)
		if changed.Of("allow-plaintext-from") != nil {
			// Before strict mode, which would keep those out.
			cover := Cover{Survey: cluster, Name: func(named *api.Coverage) { named.PlaintextFrom = next.Named.PlaintextFrom }}
			if result.Status, result.Covered, err = cover.At(ctx, conn, pod, result.Status); err != nil {
				return err
			}
		}
		if !next.Rules.Equal(is.Rules) {
			if result.Status, err = conn.SetRules(ctx, next.Rules, api.ExistingLeave); err != nil {
				return err
			}
		}
		if next.Log != is.Log {
			if result.Status, err = conn.SetLog(ctx, next.Log, 0); err != nil {
				return err
			}
		}
		if next.Mode != is.Mode {
			if result.Status, err = conn.SetMode(ctx, next.Mode, api.ExistingLeave); err != nil {
				return err
			}
			result.Warnings = append(warnings(Change{Mode: next.Mode}, result.Status), strictLines(pod, cluster, result.Status)...)
		}
		return nil
	})
	return result, changed
}

// strictLines says whom strict mode affects who has no gateway.
func strictLines(pod *corev1.Pod, cluster *survey.Survey, status *api.Status) []string {
	if status.Mode != api.Strict || cluster == nil {
		return nil
	}
	return cluster.StrictLines(pod, status.Capture.Named)
}
