//go:build linux

package supervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// A sidecar comes with its pod, and differs from other gateways in this:
//
//   - It waits for its first certificate for good. The containers behind it start when it serves (started).
//   - The kubelet starts its container again whenever it ends. Settings that were changed while it ran, and
//     what is revoked, are kept at the pod's cgroup. The key is kept nowhere: it waits for a certificate again,
//     and the programs of the gateway that died keep the pod closed meanwhile if that failed closed.
//   - One that was disabled, or has handed over, is started again as well, and does nothing any more (idle).

// These name the extended attributes of a pod's cgroup with the settings of its sidecar, and with the lists of
// what is revoked that it has. As endedAttribute does, they outlive the container, and not the pod or the boot
// of the node.
const (
	settingsAttribute = "trusted.kube-gateway.settings"
	revokedAttribute  = "trusted.kube-gateway.revoked"
)

// maxKept bounds each attribute, in bytes (include/uapi/linux/limits.h: XATTR_SIZE_MAX).
const maxKept = 64 << 10

// keptSettings are those of a Config that change while a gateway runs, and that somebody has set.
type keptSettings struct {
	Mode  api.Mode      `json:"mode"`
	Rules api.Rules     `json:"rules"`
	Log   api.LogConfig `json:"log"`
	Named api.Coverage  `json:"named"`
}

// keep has the next gateway in this container begin with the settings of config.
func (s *supervisor) keep(config *api.Config) {
	if !config.Sidecar {
		return
	}
	text, err := json.Marshal(keptSettings{config.Mode, config.Rules, config.LogConfig, config.Named})
	if err == nil {
		err = setKept(config.Pod.UID, settingsAttribute, text)
	}
	if err != nil {
		s.Log.Warn("the settings are lost when the container is started again", "error", api.OneLine(err.Error()))
	}
}

// keepRevoked has the next gateway in this container refuse what is revoked from its first connection on. Where that
// cannot be kept, what was kept before stays. It is called with the lock of the settings held.
func (s *supervisor) keepRevoked(revoked *ca.Revocations) {
	config, text := s.settings.config, revoked.Encode()
	if !config.Sidecar || len(text) == 0 {
		return
	}
	if err := setKept(config.Pod.UID, revokedAttribute, text); err != nil {
		s.Log.Warn("when the container is started again, it has to be told anew what is revoked", "error", api.OneLine(err.Error()))
	}
}

// recallRevoked returns the lists that a gateway in this container had before, as they were kept: they are
// not verified yet.
func (s *supervisor) recallRevoked() []byte {
	text, err := getKept(s.settings.config.Pod.UID, revokedAttribute)
	if err != nil {
		s.Log.Warn("what was revoked before the container was started again is unknown", "error", api.OneLine(err.Error()))
	}
	return text
}

func setKept(podUID, attribute string, text []byte) error {
	if len(text) > maxKept {
		return fmt.Errorf("the pod's cgroup keeps %d bytes, and these are %d", maxKept, len(text))
	}
	pod, _, err := bpf.PodCgroup(podUID)
	if err != nil {
		return err
	}
	if err := unix.Setxattr(pod.Path, attribute, text, 0); err != nil {
		return fmt.Errorf("keeping %s at the pod's cgroup: %w", attribute, err)
	}
	return nil
}

// getKept returns what setKept has kept, empty if there is nothing.
func getKept(podUID, attribute string) ([]byte, error) {
	pod, _, err := bpf.PodCgroup(podUID)
	if err != nil {
		return nil, nil // load says so
	}
	text := make([]byte, maxKept)
	n, err := unix.Getxattr(pod.Path, attribute, text)
	if errors.Is(err, unix.ENODATA) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s at the pod's cgroup: %w", attribute, err)
	}
	return text[:n], nil
}

// recall returns config with the settings that a gateway in this container had before.
func recall(config *api.Config) (*api.Config, error) {
	text, err := getKept(config.Pod.UID, settingsAttribute)
	if err != nil || len(text) == 0 {
		return config, err
	}
	var kept keptSettings
	next := *config
	if err = json.Unmarshal(text, &kept); err == nil {
		next.Mode, next.Rules, next.LogConfig, next.Named = kept.Mode, kept.Rules, kept.Log, kept.Named
		err = next.Validate()
	}
	if err != nil {
		return config, fmt.Errorf("reading the settings at the pod's cgroup: %w", err)
	}
	return &next, nil
}

// settle returns config with what a sidecar gets with its first certificate.
func settle(config *api.Config, first *api.FirstSettings) (*api.Config, error) {
	switch {
	case first == nil:
		return nil, api.WithHint(errors.New("the certificate comes without what the pod's first gateway has to capture"),
			"use 'kubectl gateway watch' or 'kubectl gateway enable' of this release")
	case first.Cover.Seen != config.Named.Fingerprint():
		return nil, api.WithHint(errors.New("what is named of the coverage has changed meanwhile"), "try again")
	}
	next := *config
	next.Coverage, next.Named, next.LogTotal = first.Cover.Coverage, first.Cover.Named, first.LogTotal
	next.Mode, next.Log = cmp.Or(first.Mode, next.Mode), cmp.Or(first.Log, next.Log)
	if first.Rules != nil {
		next.Rules = *first.Rules
	}
	if err := cmp.Or(next.Coverage.Validate(), next.Validate()); err != nil {
		return nil, fmt.Errorf("checking the first settings: %w", err)
	}
	return &next, nil
}

// sweep removes what a gateway that died in this container has left, from a sidecar that is disabled
// before it serves. Others replace that as they begin to serve.
func (s *supervisor) sweep() error {
	if !s.settings.config.Sidecar || !s.end.isDisabled() || s.programs != nil {
		return nil
	}
	_, err := Clean(context.Background(), s.settings.config)
	return err
}

// idle is the life of a sidecar that was disabled.
func (s *supervisor) idle(ctx context.Context) error {
	s.Log.Info("disabled: the pod's connections pass until it is replaced")
	select {
	case <-ctx.Done():
		return nil
	case <-s.Terminate:
		// The next one in this container has to know as well.
		return ErrDisabled
	}
}

// errIdle answers what a disabled sidecar cannot do.
var errIdle = api.WithHint(errors.New("the gateway was disabled"), "'kubectl gateway enable' adds another one")

// started returns nil once the containers behind a sidecar may start, and otherwise, after wait, what it
// waits for. after is how long it may keep them waiting since it started, 0 for good.
func (s *supervisor) started(ctx context.Context, wait, after time.Duration) error {
	st, _ := s.snapshot()
	left := time.Until(st.StartedAt.Add(after))
	if after > 0 {
		wait = min(wait, max(left, 0))
	}
	s.await(ctx, wait, api.Starting, api.Uncertified)
	st, _ = s.snapshot()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case st.State != api.Starting && st.State != api.Uncertified:
		return nil
	case after > 0 && time.Since(st.StartedAt) >= after:
		return nil
	case st.State == api.Uncertified:
		return api.WithHint(errors.New("the gateway waits for its first certificate, and the pod's containers wait for the gateway"),
			fmt.Sprintf("'kubectl gateway watch' gives it one, and so does 'kubectl gateway enable pod/%s -n %s'", st.Pod.Name, st.Pod.Namespace))
	case st.Reason != "":
		return fmt.Errorf("the gateway cannot start yet: %s", st.Reason)
	}
	return errors.New("the gateway is starting")
}
