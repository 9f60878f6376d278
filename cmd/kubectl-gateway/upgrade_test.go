package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// upgradable makes the gateways of w take over from one another.
func upgradable(w *world) {
	var bundle corev1.ConfigMap
	must.Do(w.t, json.Unmarshal([]byte(w.objects[bundlePath]), &bundle))
	var roots []string
	for _, root := range must.Get(ca.ParseCertificates([]byte(bundle.Data[authority.BundleKey])))(w.t) {
		roots = append(roots, ca.Fingerprint(root))
	}
	container := &w.pod("g").Spec.EphemeralContainers[0]
	container.Env[0].Value = strings.Replace(container.Env[0].Value, `"td"`, `"cluster.local"`, 1)
	container.Env = append(container.Env, corev1.EnvVar{Name: api.EnvKey, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "tls.key"}}})
	w.fleet = &fakegateway.Line{
		Pod: w.pod, Roots: roots, Drains: true,
		SetState: func(pod, container string, state corev1.ContainerState) {
			statuses := w.pod(pod).Status.EphemeralContainerStatuses
			statuses[slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == container })].State = state
		},
	}
}

func TestUpgradeReport(t *testing.T) {
	was := &api.Status{Version: "v1", Traffic: api.Traffic{Outbound: api.Direction{Active: 2}, Inbound: api.Direction{Active: 3}}}
	results := []inject.Result{
		{Pod: fakecluster.NewPod("a"), Action: inject.Replaced, Container: "kube-gateway-2", Predecessor: "kube-gateway", Elapsed: 1840 * time.Millisecond, Was: was,
			Status: &api.Status{Version: "v2\x1b[2J", Mode: api.Strict}},
		{Pod: fakecluster.NewPod("b"), Action: inject.Unchanged, Container: "kube-gateway", Was: was, Status: was},
		{Pod: fakecluster.NewPod("c"), Action: inject.Failed, Err: api.WithHint(errors.New("no such image"), "check --image")},
	}
	var out, errOut bytes.Buffer
	var o upgradeOptions
	injector := &inject.Injector{Options: inject.Options{Succession: inject.Succession{DrainTimeout: time.Minute}}}
	if err := reportOn(o.verb(injector), results, &out, &errOut); !errors.Is(err, errReported) {
		t.Error(err)
	}
	want := `pod/a gateway upgraded from v1 to v2\x1b[2J (kube-gateway by kube-gateway-2, 1.8s)
pod/b gateway is v1 already (kube-gateway)
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	want = `pod/a: connections that stay with kube-gateway for at most 1m0s: about 5
pod/b: its image has that name already; --force replaces it, should the image be another one (the plugin is ` + version + `)
pod/c: error: no such image
`
	if !strings.HasPrefix(errOut.String(), want) {
		t.Errorf("progress:\n%s", errOut.String())
	}
}

// TestOnePodOfAWorkloadAtATime, and none behind one that has failed.
func TestOnePodOfAWorkloadAtATime(t *testing.T) {
	var pods []corev1.Pod
	for _, workload := range []string{"a", "b", "a", "a", "b", ""} {
		pod := *fakecluster.NewPod(fmt.Sprintf("%s%d", workload, len(pods)))
		if workload != "" {
			pod.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(workload), Controller: new(true)}}
		}
		pods = append(pods, pod)
	}
	v := (&upgradeOptions{podFlags: podFlags{parallel: 8}}).verb(&inject.Injector{})
	busy, all := make(chan types.UID, len(pods)), make(chan struct{})
	go func() {
		// Three workloads at a time, if one counts the pod that belongs to none.
		seen := map[types.UID]bool{}
		for len(seen) < 3 {
			seen[<-busy] = true
		}
		close(all)
	}()
	var told []string
	results := v.each(pods, func(pod *corev1.Pod) finished[inject.Result] {
		busy <- installed.WorkloadOf(pod)
		select {
		case <-all:
		case <-time.After(10 * time.Second):
			t.Error("workloads wait for one another")
		}
		if pod.Name == "a2" {
			return v.finished(inject.Result{Pod: pod, Err: errors.New("it failed")})
		}
		return finished[inject.Result]{result: inject.Result{Pod: pod, Action: inject.Replaced}}
	}, func(finished[inject.Result]) { told = append(told, "") })
	var got []string
	for _, r := range results {
		got = append(got, fmt.Sprintf("%s %s %v", r.result.Pod.Name, r.result.Action, r.result.Err))
	}
	want := []string{"a0 replaced <nil>", "b1 replaced <nil>", "a2  it failed", "a3 failed left as it is, because pod/a2 of the same workload has failed", "b4 replaced <nil>", "5 replaced <nil>"}
	if diff := cmp.Diff(want, got); diff != "" || len(told) != len(pods) {
		t.Errorf("%d were told (-want +got):\n%s", len(told), diff)
	}
}

// TestReplaceTakesEveryFlag: a flag that is a setting of gateways changes it with --replace.
func TestReplaceTakesEveryFlag(t *testing.T) {
	var s settings
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.addFlags(nil, f, inject.DeliverySecret, "")
	known := changes(s.complete())
	// They are about how a gateway is added.
	others := []string{"image", "image-pull-policy", "cert-ttl", "timeout", "authority-dir", "passphrase-file", "delivery"}
	f.VisitAll(func(flag *pflag.Flag) {
		if known[flag.Name] == nil && !slices.Contains(others, flag.Name) {
			t.Errorf("--replace does not know --%s", flag.Name)
		}
	})
	for name := range maps.Keys(known) {
		if f.Lookup(name) == nil {
			t.Errorf("there is no --%s", name)
		}
	}
}

func TestReplaceChangesWhatIsGiven(t *testing.T) {
	had := api.Config{Mode: api.Strict, OnFailure: api.FailClosed, Wire: api.WirePort, Rules: api.Rules{Allow: []string{"ns/a/sa/b"}}, MetricsAddr: ":18445"}
	for line, change := range map[string]func(*api.Config){
		"":                  func(*api.Config) {},
		"--mode=permissive": func(c *api.Config) { c.Mode = api.Permissive },
		"--wire=inband --metrics-addr=": func(c *api.Config) {
			c.Wire, c.MetricsAddr, c.Named.NodePorts = api.WireInband, "", [2]uint16{30000, 32767}
		},
		"--wire=port":      func(*api.Config) {},
		"--node-ports=1-2": func(c *api.Config) { c.Named.NodePorts = [2]uint16{1, 2} },
		"--on-failure=open --allow=ns/c/sa/d --audit --exclude-port=22": func(c *api.Config) {
			c.OnFailure, c.Allow, c.Audit, c.Named.ExcludePorts = api.FailOpen, []string{"ns/c/sa/d"}, true, []uint16{22}
		},
	} {
		var s settings
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		s.addFlags(nil, f, inject.DeliverySecret, "")
		must.Do(t, f.Parse(strings.Fields(line)))
		want, got := had, had
		change(&want)
		s.change(f.Changed, s.complete())(&got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

func TestUpgradesThatMakeNoSense(t *testing.T) {
	fails(t, (&apiServer{}).start(t), 1, map[string]string{
		"upgrade": "no pod is named", "upgrade web --image=": "the name is empty", "upgrade --all": "needs a confirmation",
		"enable web --drain-timeout=1m": "--drain-timeout is about gateways that are replaced",
	})
}
