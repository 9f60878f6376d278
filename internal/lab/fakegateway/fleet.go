package fakegateway

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Fleet are gateways that keep the settings that they are given. Its zero value is ready.
// What it was asked is each command with the pod in front.
// The UID of the pod called web is uid-web.
type Fleet struct {
	record
	statuses map[string]*api.Status
}

// Set makes status that of the gateway of a pod, and its coverage what it was given. What is
// missing is that of a strict gateway which is ready.
func (f *Fleet) Set(pod string, status api.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	status.State, status.Mode = cmp.Or(status.State, api.Ready), cmp.Or(status.Mode, api.Strict)
	status.Pod, status.OnFailure = api.PodRef{UID: "uid-" + pod}, api.FailClosed
	status.Capture.Fingerprint = status.Capture.Coverage.Fingerprint()
	if f.statuses == nil {
		f.statuses = map[string]*api.Status{}
	}
	f.statuses[pod] = &status
}

// Status returns the status of a pod's gateway.
func (f *Fleet) Status(pod string) api.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if status := f.statuses[pod]; status != nil {
		return *status
	}
	return api.Status{}
}

// Answer is a Gateways.
func (f *Fleet) Answer(_ context.Context, call *Call) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, call.Pod+" "+call.Op())
	status := f.statuses[call.Pod]
	switch {
	case status == nil:
		return nil, Refuse("no gateway is here")
	case call.Op() == "mode":
		status.Mode = api.Mode(call.Words[1])
	case call.Op() == "log":
		status.Log.Level, status.Log.Limit = api.Log(call.Words[1]), api.DefaultLogLimit
		for _, word := range call.Words[2:] {
			if _, err := fmt.Sscanf(word, "--limit=%d", &status.Log.Limit); err != nil {
				return nil, err
			}
		}
	case call.Op() == "allow":
		status.Allow = slices.DeleteFunc(slices.Clone(call.Words[1:]), func(word string) bool { return strings.HasPrefix(word, "--") })
	case call.Op() == "cover":
		var cover api.Cover
		if err := call.Read(&cover); err != nil {
			return nil, err
		}
		if cover.Seen != status.Capture.Named.Fingerprint() {
			return nil, Refuse("what is named of the coverage has changed meanwhile")
		}
		if err := cover.Coverage.Validate(); err != nil {
			return nil, Refuse(err.Error())
		}
		status.Capture.Coverage, status.Capture.Named = cover.Coverage, cover.Named
		status.Capture.Fingerprint = cover.Coverage.Fingerprint()
	case call.Op() != "status":
		return nil, fmt.Errorf("unexpected command %q", call.Words)
	}
	answer := *status
	if slices.Contains(call.Words, "--existing=reset") {
		answer.Reset = 3
	}
	return &answer, nil
}
