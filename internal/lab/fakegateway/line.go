package fakegateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// Line are gateways that begin as their containers were given to, and take over from one another.
// The tag of a container's image is the version of its gateway. What it was asked is each command
// but for questions for the status, with the container in front.
type Line struct {
	// Pod returns a pod, and SetState is a kubelet's report about one of its containers.
	Pod      func(name string) *corev1.Pod
	SetState func(pod, container string, state corev1.ContainerState)
	// Roots are what gateways trust whose key came in a Secret.
	Roots []string
	// Before, if not nil, is called before each command. Its error is the answer.
	Before func(call *Call) error
	// After, if not nil, is called behind each command that succeeded. Its error is what comes of it.
	After func(call *Call) error
	// Drains keeps gateways that handed over.
	Drains bool

	record
	gateways map[string]*member
}

// member is one gateway of a Line.
type member struct {
	status   api.Status
	replaces string
	offer    *api.Handover
}

// Status returns the status of a gateway, and lets change make it another one if that is not nil.
func (l *Line) Status(pod, container string, change func(*api.Status)) api.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, err := l.member(pod, container)
	if err != nil {
		return api.Status{}
	}
	if change != nil {
		change(&m.status)
	}
	return m.status
}

// Answer is a Gateways.
func (l *Line) Answer(_ context.Context, call *Call) (any, error) {
	if l.Before != nil {
		if err := l.Before(call); err != nil {
			return nil, err
		}
	}
	answer, err := l.answer(call)
	if err == nil && l.After != nil {
		err = l.After(call)
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

func (l *Line) answer(call *Call) (any, error) {
	l.mu.Lock()
	m, err := l.member(call.Pod, call.Container)
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if call.Op() == "renew" {
		// The other side may want to know something of the line meanwhile.
		material, err := call.Renew()
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.asked = append(l.asked, call.Container+" renew")
		m.status.Cert = material.Certificate()
		if m.status.State == api.Uncertified {
			m.begin()
		}
		answer := m.status
		return &answer, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if call.Op() != "status" {
		l.asked = append(l.asked, call.Container+" "+call.Op())
	}
	switch call.Op() {
	case "status":
	case "mode":
		m.status.Mode = api.Mode(call.Words[1])
	case "hand-over":
		if m.status.State != api.Ready {
			return nil, Refuse("it does not serve")
		}
		m.offer = &api.Handover{Socket: rand.Text(), Token: []byte(rand.Text())}
		return m.offer, nil
	case "take-over":
		if err := l.takeOver(call, m); err != nil {
			return nil, err
		}
	case "disable":
		l.end(call.Pod, call.Container, m, api.DisabledMessage, 0)
		return api.DisableReport{}, nil
	default:
		return nil, fmt.Errorf("unexpected command %q", call.Words)
	}
	answer := m.status
	return &answer, nil
}

func (l *Line) takeOver(call *Call, m *member) error {
	var offer api.Handover
	if err := call.Read(&offer); err != nil {
		return err
	}
	if m.status.State != api.Standby {
		return Refuse("it does not stand by")
	}
	before, err := l.member(call.Pod, m.replaces)
	if err != nil || before.offer == nil || offer.Socket != before.offer.Socket || !slices.Equal(offer.Token, before.offer.Token) {
		l.end(call.Pod, call.Container, m, "error: nobody is there to take over from", api.ExitUnserved)
		return Refuse("nobody is there to take over from")
	}
	before.status.State, before.offer, m.status.State = api.Draining, nil, api.Ready
	if !l.Drains {
		l.end(call.Pod, m.replaces, before, api.HandedOverMessage, 0)
	}
	return nil
}

func (l *Line) end(pod, container string, m *member, words string, code int32) {
	m.status.State = ""
	l.SetState(pod, container, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Completed", Message: words}})
}

// begin makes a gateway with a certificate what it is to be.
func (m *member) begin() {
	if m.status.State = api.Ready; m.replaces != "" {
		m.status.State = api.Standby
	}
}

// member returns the gateway in a container that runs. l.mu is held.
func (l *Line) member(pod, container string) (*member, error) {
	object := l.Pod(pod)
	statuses := slices.Concat(object.Status.InitContainerStatuses, object.Status.EphemeralContainerStatuses)
	i := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == container })
	if i < 0 || statuses[i].State.Running == nil {
		return nil, fmt.Errorf("%w: container %s", remote.ErrNotRunning, container)
	}
	key := pod + "/" + container
	if m := l.gateways[key]; m != nil {
		return m, nil
	}
	all := slices.Clone(object.Spec.EphemeralContainers)
	for _, c := range object.Spec.InitContainers {
		all = append(all, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon(c)})
	}
	for _, c := range all {
		if c.Name != container {
			continue
		}
		m, err := newMember(object, &c, l.Roots)
		if err != nil {
			return nil, err
		}
		if l.gateways == nil {
			l.gateways = map[string]*member{}
		}
		l.gateways[key] = m
		return m, nil
	}
	return nil, errors.New("there is no such container")
}

func newMember(pod *corev1.Pod, container *corev1.EphemeralContainer, roots []string) (*member, error) {
	var config api.Config
	secret := false
	for _, env := range container.Env {
		switch env.Name {
		case api.EnvConfig:
			if err := json.Unmarshal([]byte(env.Value), &config); err != nil {
				return nil, err
			}
		case api.EnvKey:
			secret = true
		}
	}
	_, tag, _ := strings.Cut(container.Image, ":")
	m := &member{replaces: config.Replaces, status: api.Status{
		Version: tag, State: api.Uncertified, Pod: api.PodRef{UID: string(pod.UID)}, Mode: config.Mode, OnFailure: config.OnFailure,
		Wire: config.Wire, Rules: config.Rules, MetricsAddr: config.MetricsAddr,
		Capture: api.Capture{Coverage: config.Coverage, Fingerprint: config.Fingerprint(), Named: config.Named, BlockUDP: config.BlockUDP},
	}}
	if secret {
		m.status.Cert = api.Certificate{Serial: "1", NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), Authorities: roots}
		m.begin()
	}
	return m, nil
}
