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

// newestEnded returns the number of the newest gateway that has ended for good in the pod with
// this cgroup, 0 for none.
func newestEnded(podCgroup string) (int, error) {
	var text [16]byte
	n, err := unix.Getxattr(podCgroup, endedAttribute, text[:])
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

// markEnded notes that all gateways up to number have ended for good, none if it is 0.
func markEnded(podCgroup string, number int) error {
	if newest, err := newestEnded(podCgroup); number <= 0 || err == nil && newest >= number {
		return nil
	}
	if err := unix.Setxattr(podCgroup, endedAttribute, []byte(strconv.Itoa(number)), 0); err != nil {
		return fmt.Errorf("noting that the gateway has ended: %w", err)
	}
	return nil
}

// endedBefore returns ErrDisabled if this gateway has ended for good before: it was disabled, or a
// newer one has replaced it.
func (s *supervisor) endedBefore() error {
	config := s.settings.config
	if config.Number == 0 {
		return nil
	}
	pod, _, err := bpf.PodCgroup(config.Pod.UID)
	if err != nil {
		return nil // load says so
	}
	newest, err := newestEnded(pod.Path)
	if err != nil {
		s.Log.Warn("whether the gateway has ended before is unknown", "error", err)
	}
	if newest < config.Number {
		return nil
	}
	s.Log.Info("the container of a gateway that has ended was started again: it ends", "number", config.Number, "ended", newest)
	return ErrDisabled
}

// noteEnded notes that the gateways up to number have ended for good. Without the note they
// come back when the runtime forgets their containers.
func (s *supervisor) noteEnded(number int) {
	pod, _, err := bpf.PodCgroup(s.settings.config.Pod.UID)
	if err == nil {
		err = markEnded(pod.Path, number)
	}
	if err != nil {
		s.Log.Warn("gateways that have ended may come back when the runtime forgets their containers", "error", api.OneLine(err.Error()))
	}
}
