package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/disable"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

func TestDisableFlags(t *testing.T) {
	for line, want := range map[string]disable.Options{
		"": {DrainTimeout: 30 * time.Second, Timeout: time.Minute, Image: installed.DefaultImage(version)},
		"--drain-timeout=0 --timeout=5s --image=x:1 --image-pull-policy=Never --dry-run=server": {
			Timeout: 5 * time.Second, Image: "x:1", PullPolicy: corev1.PullNever, DryRun: installed.DryRunServer},
	} {
		var o disableOptions
		err := newDisableCommand(&app{IOStreams: genericiooptions.NewTestIOStreamsDiscard()}, &o).ParseFlags(strings.Fields(line))
		if err != nil || o.options != want {
			t.Errorf("%q: %+v, %v", line, o.options, err)
		}
	}
}

// TestDisableReport compares everything that is printed about results of every kind.
func TestDisableReport(t *testing.T) {
	result := func(name string, action disable.Action, container string) disable.Result {
		return disable.Result{Pod: fakecluster.NewPod(name), Action: action, Container: container, Elapsed: 1240 * time.Millisecond}
	}
	drained := result("drained", disable.Disabled, "kube-gateway")
	drained.Report, drained.Secrets = &api.DisableReport{Drained: 12, Aborted: 1}, 1
	silent := result("silent", disable.Disabled, "kube-gateway")
	died := result("died", disable.Disabled, "kube-gateway")
	died.Died = true
	cleaned := result("cleaned", disable.Disabled, "kube-gateway-2")
	cleaned.Cleaner = "kube-gateway-2"
	before := result("before", disable.Unchanged, "kube-gateway-3")
	none := result("none", disable.Unchanged, "")
	none.Secrets = 2
	blind := result("blind", disable.Disabled, "kube-gateway")
	blind.Report, blind.SecretsUnknown = &api.DisableReport{}, true
	left := result("left", disable.Failed, "kube-gateway")
	left.Report = &api.DisableReport{Left: []string{"map \x1b[2J"}}
	left.Err = api.WithHint(errors.New("map \x1b[2J\nis left"), "again")
	all := []disable.Result{drained, silent, died, cleaned, before, none, blind, left}
	for _, test := range []struct {
		file, format string
		dryRun       installed.DryRun
	}{
		{"disable.txt", "", ""}, {"disable-name.txt", "name", ""}, {"disable-json.txt", "json", ""}, {"disable-dry-run.txt", "", installed.DryRunServer},
	} {
		var out, errOut bytes.Buffer
		o := disableOptions{output: test.format, options: disable.Options{DryRun: test.dryRun}}
		errOut.WriteString("pod/drained: draining\n")
		if err := reportOn(o.verb(), all, &out, &errOut); !errors.Is(err, errReported) {
			t.Errorf("%s: %v", test.file, err)
		}
		golden.Check(t, test.file, fmt.Sprintf("--- stdout\n%s--- stderr\n%s", &out, &errOut))
		if strings.Contains(out.String()+errOut.String(), "\x1b") {
			t.Errorf("%s: something harmful is left", test.file)
		}
	}
}

// TestDisableFromTheCommandLine goes all the way with pods that need no more than
// a look.
func TestDisableFromTheCommandLine(t *testing.T) {
	disabled := &corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: api.DisabledMessage}}
	s := &apiServer{
		pods: []corev1.Pod{podWithGateway("demo", "bystander", nil), podWithGateway("demo", "before", disabled),
			podWithGateway("demo", "runs", gatewayRuns()), podWithGateway("demo", "died", gatewayDied())},
		gateway: func(string, []string) (string, string, int) {
			t.Error("a gateway was asked")
			return "", "", 1
		},
	}
	run := s.start(t)
	code, stdout, stderr := run("disable", "bystander", "pod/before")
	lines := strings.Split(stdout, "\n")
	slices.Sort(lines)
	if code != 0 || !slices.Equal(lines, []string{"", "pod/before gateway already disabled (kube-gateway)", "pod/bystander has no gateway"}) {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run("disable", "--all", "--dry-run=client", "-o", "json")
	var list struct{ Items []disableItem }
	if err := json.Unmarshal([]byte(stdout), &list); code != 0 || err != nil || len(list.Items) != 4 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	for _, item := range list.Items {
		want := map[string]disable.Action{"bystander": disable.Unchanged, "before": disable.Unchanged, "runs": disable.Disabled, "died": disable.Disabled}[item.Pod]
		if item.Action != want || (item.Cleaner != "") != (item.Pod == "died") {
			t.Errorf("%+v", item)
		}
	}
	fails(t, run, 1, map[string]string{"disable --all": "--yes", "disable": "no pod is named", "disable gone": "not found"})
}
