package disable

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

const (
	// reportGrace is how long a gateway's report may travel after its end was seen.
	reportGrace = 2 * time.Second
	// quietFor is how long nothing is said about a pod.
	quietFor = 3 * time.Second
)

// end tells gateway, which runs, to end, and waits for that. Without an error it
// has ended, in whatever way; the pod's state tells which.
func (d *Disabler) end(ctx context.Context, pod *corev1.Pod, gateway installed.Gateway, result *Result) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A container that cleans up ends by itself.
	if installed.Cleans(pod, gateway.Name) {
		_, err := installed.WaitUntil(ctx, installed.EachPod(d.Client), pod, gateway.Name, terminated)
		if err == nil {
			result.Cleaner = gateway.Name
		}
		return err
	}
	if d.Progress != nil {
		timer := time.AfterFunc(quietFor, func() {
			d.Progress(pod, fmt.Sprintf("draining its connections, for at most %s", d.Options.DrainTimeout))
		})
		defer timer.Stop()
	}
	reports := make(chan *api.DisableReport, 1)
	go func() {
		report, err := d.ask(ctx, pod, gateway.Name)
		reports <- report
		if err == nil && report != nil && len(report.Left) > 0 {
			err = api.WithHint(fmt.Errorf("%s could not remove everything from the pod: %s is left",
				gateway.Name, strings.Join(report.Left, ", ")), again(pod))
		}
		if err != nil {
			cancel(err)
		}
	}()
	_, err := installed.WaitUntil(ctx, installed.EachPod(d.Client), pod, gateway.Name, terminated)
	if err != nil && len(reports) == 0 {
		return err
	}
	select {
	case result.Report = <-reports:
	case <-time.After(reportGrace):
	}
	return err
}

func terminated(gateway installed.Gateway) bool { return gateway.Phase == installed.Terminated }

// ask returns the report of the gateway called name. It is nil without an error if
// the container has ended before it could be asked.
func (d *Disabler) ask(ctx context.Context, pod *corev1.Pod, name string) (*api.DisableReport, error) {
	report, err := d.Gateways.Gateway(pod, name).Disable(ctx, d.Options.DrainTimeout)
	switch {
	case err == nil:
		return report, nil
	case errors.Is(err, remote.ErrNotRunning):
		return nil, nil
	case errors.Is(err, remote.ErrPodGone), errors.Is(err, remote.ErrOtherPod):
		return nil, installed.ErrReplaced
	}
	err = fmt.Errorf("telling %s to end: %w", name, err)
	if api.Hint(err) == "" {
		err = api.WithHint(err, "it may be on its way to its end; "+again(pod))
	}
	return nil, err
}

// clean adds a container that removes what gateway, which has died, left in pod,
// and waits for its end.
func (d *Disabler) clean(ctx context.Context, pod *corev1.Pod, gateway installed.Gateway, result *Result) error {
	container, err := installed.Cleaner(pod, gateway.Name, d.Options.Image, d.Options.PullPolicy)
	if err != nil {
		return err
	}
	added, err := installed.AddContainer(ctx, d.Client, pod, container, false)
	if errors.Is(err, installed.ErrOvertaken) {
		return nil // look again
	}
	if err != nil {
		return installed.WhileClosed(pod, err)
	}
	result.Container, result.Cleaner = container.Name, container.Name
	ended, err := installed.WaitUntil(ctx, installed.EachPod(d.Client), added, container.Name, terminated)
	switch {
	case err != nil && ended.Phase == installed.Waiting && gateway.Image != container.Image && api.Hint(err) != "":
		return api.WithHint(fmt.Errorf("cleaning up after %s: %w", gateway.Name, err),
			fmt.Sprintf("%s; %s ran %s", api.Hint(err), gateway.Name, api.OneLine(gateway.Image)))
	case err != nil:
		return fmt.Errorf("cleaning up after %s: %w", gateway.Name, err)
	case !ended.Disabled():
		return fmt.Errorf("cleaning up after %s: %w", gateway.Name, installed.Ended(added, ended))
	}
	return nil
}
