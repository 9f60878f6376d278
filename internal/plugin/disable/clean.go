package disable

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

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
	case err != nil:
		return fmt.Errorf("cleaning up after %s: %w", gateway.Name, err)
	case !ended.Disabled():
		return fmt.Errorf("cleaning up after %s: %w", gateway.Name, installed.Ended(added, ended))
	}
	return nil
}
