//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// endedAttribute names the extended attribute of a pod's cgroup that says which of the pod's
// gateways have ended for good: all up to the decimal number in it. The kubelet starts an
// ephemeral container again when the runtime has forgotten it, and nothing else that the
// container can read outlives it. The cgroup lives as long as the pod, on one boot of the
// node; only CAP_SYS_ADMIN reads or changes attributes called trusted (xattr(7)).
const endedAttribute = "trusted.kube-gateway.ended"

// startedAttribute says likewise which gateways were started. None is a second time: while it ran, the
// API server would refuse every status of the pod, because a status of an ephemeral container may not
// lead from terminated to running.
const startedAttribute = "trusted.kube-gateway.started"

// errStartedAgain ends a gateway that has died before.
var errStartedAgain = errors.New("the gateway died, and the kubelet has started its container again")

// newest returns the highest number of a gateway that an attribute of the pod with this cgroup names, 0
// for none.
func newest(podCgroup, attribute string) (int, error) {
	var text [16]byte
	n, err := unix.Getxattr(podCgroup, attribute, text[:])
	if errors.Is(err, unix.ENODATA) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading which gateways have ended: %w", err)
	}
	number, err := strconv.Atoi(string(text[:n]))
	if err != nil {
		return 0, fmt.Errorf("reading which gateways have ended: %w", err)
	}
	return number, nil
}

// mark has an attribute name all gateways up to number, none if it is 0.
func mark(podCgroup, attribute string, number int) error {
	if newest, err := newest(podCgroup, attribute); number <= 0 || err == nil && newest >= number {
		return nil
	}
	if err := unix.Setxattr(podCgroup, attribute, []byte(strconv.Itoa(number)), 0); err != nil {
		return fmt.Errorf("noting the gateway's number: %w", err)
	}
	return nil
}

// startedBefore returns an error if this gateway was started before: ErrDisabled if it has ended for good
// since, because it was disabled, or a newer one has replaced it.
func (s *supervisor) startedBefore() error {
	config := s.settings.config
	if config.Number == 0 {
		return nil
	}
	pod, _, err := bpf.PodCgroup(config.Pod.UID)
	if err != nil {
		return nil // load says so
	}
	ended, err := newest(pod.Path, endedAttribute)
	started, startedErr := newest(pod.Path, startedAttribute)
	if err := errors.Join(err, startedErr, mark(pod.Path, startedAttribute, config.Number)); err != nil {
		s.Log.Warn("whether the gateway was started before is unknown", "error", api.OneLine(err.Error()))
	}
	switch {
	case ended >= config.Number:
		err = ErrDisabled
	case started >= config.Number && config.Sidecar:
		s.Log.Info("the kubelet has started the gateway again")
		return nil
	case started >= config.Number:
		err = api.WithHint(errStartedAgain, "'kubectl gateway enable' adds another one")
	default:
		return nil
	}
	s.Log.Info("the container of a gateway that has ended was started again: it ends", "number", config.Number, "ended", ended)
	return err
}

// noteEnded notes that the gateways up to number have ended for good. Without the note they
// come back when the runtime forgets their containers.
func (s *supervisor) noteEnded(number int) {
	pod, _, err := bpf.PodCgroup(s.settings.config.Pod.UID)
	if err == nil {
		err = mark(pod.Path, endedAttribute, number)
	}
	if err != nil {
		s.Log.Warn("gateways that have ended may come back when the runtime forgets their containers", "error", api.OneLine(err.Error()))
	}
}
