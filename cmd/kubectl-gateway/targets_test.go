package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
)

// shopServer has a StatefulSet db with three pods, one of them without a gateway,
// and a pod that does not belong to it.
func shopServer(g *gatewayContainers) *apiServer {
	s := &apiServer{
		objects: map[string]string{
			"/apis/apps/v1/namespaces/demo/statefulsets/db": `{"apiVersion":"apps/v1","kind":"StatefulSet",
				"metadata":{"namespace":"demo","name":"db","uid":"db"},"spec":{"selector":{"matchLabels":{"app":"db"}}}}`,
			"/apis/apps/v1/namespaces/demo/statefulsets/none": `{"apiVersion":"apps/v1","kind":"StatefulSet",
				"metadata":{"namespace":"demo","name":"none","uid":"none"},"spec":{"selector":{"matchLabels":{"app":"none"}}}}`,
		},
		pods: []corev1.Pod{
			podWithGateway("demo", "db-0", gatewayRuns()),
			podWithGateway("demo", "db-1", gatewayRuns()),
			podWithGateway("demo", "db-2", nil),
		},
		answers: map[string]string{"db-0": readyStatus("db-0"), "db-1": readyStatus("db-1"), "lone": readyStatus("lone")},
		logs:    map[string]string{"db-0": tailLog, "db-1": tailLog, "lone": tailLog},
	}
	if g != nil {
		s.gateway = g.run
	}
	for i := range s.pods {
		s.pods[i].OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Name: "db", UID: types.UID("db"), Controller: new(true)}}
	}
	s.pods = append(s.pods, podWithGateway("demo", "lone", gatewayRuns()))
	return s
}

func TestChangesOfAWorkload(t *testing.T) {
	manifest := filepath.Join(t.TempDir(), "db.yaml")
	must.Do(t, os.WriteFile(manifest, []byte("{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}}"), 0o600))
	for _, args := range []string{"mode sts/db strict", "allow statefulset.apps/db --everyone", "mode -f " + manifest + " strict"} {
		var g gatewayContainers
		code, stdout, stderr := shopServer(&g).start(t)(strings.Fields(args)...)
		if code != 0 || len(g.commands) != 2 || g.commands["db-0"] == "" || !strings.Contains(stdout, "pod/db-1 gateway ") ||
			!strings.Contains(stderr, "pod/db-2: skipped, it has no gateway\n") ||
			strings.Count(stderr, "new pods of statefulset/db get no gateway by themselves: kubectl gateway watch statefulset/db -n demo\n") != 1 {
			t.Errorf("%s: exit code %d, %q, %q, %q", args, code, g.commands, stdout, stderr)
		}
	}
	// What was named itself is no bystander.
	var g gatewayContainers
	code, _, stderr := shopServer(&g).start(t)("mode", "sts/db", "db-2", "lone", "strict")
	if code != 1 || len(g.commands) != 3 || !strings.Contains(stderr, "pod/db-2: error: ") || strings.Contains(stderr, "skipped") {
		t.Errorf("exit code %d, %q, %q", code, g.commands, stderr)
	}
}

func TestLookingAtAWorkload(t *testing.T) {
	prints(t, shopServer(nil).start(t),
		printed{"status sts/db", 0, "!lone|db-1 |not enabled", ""},
		printed{"tail sts/db --no-follow", 0, "!lone|db-0|db-1", nothing},
		printed{"status sts/none lone sts/gone", 1, "", `error: no pod found: statefulset/none in namespace "demo" has none|` +
			`error: statefulset/gone not found in namespace "demo"|hint: 'kubectl gateway watch statefulset/none -n demo'`},
	)
}

func TestNothingIsFoundOfWhatIsNamed(t *testing.T) {
	code, stdout, stderr := shopServer(nil).start(t)("status", "sts/gone", "lost", "sts/away")
	want := "error: statefulset/gone not found in namespace \"demo\"\nerror: pod \"lost\" not found in namespace \"demo\"\n" +
		"error: statefulset/away not found in namespace \"demo\"\n" +
		"hint: 'kubectl get statefulset -n demo' lists what there is; -n names another namespace\n" +
		"hint: 'kubectl get pods -n demo' lists pods; -n names another namespace\n"
	if code != 1 || stdout != "" || stderr != want {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}

// A script that means everything must say so, before anything happens.
func TestRefusesEverythingWhereNobodyCanBeAsked(t *testing.T) {
	for line, which := range map[string]string{
		"enable --all":                        "--all",
		"enable -A --all":                     "-A",
		"enable -A -l app=web":                "-A",
		"mode --all strict":                   "--all",
		"mode -A --field-selector=a=b strict": "-A",
		"allow --all --everyone":              "--all",
	} {
		fails(t, (&apiServer{}).start(t), 1, map[string]string{line: "error: " + which + " needs a confirmation, and there is no terminal to ask on\nhint: add --yes\n"})
	}
	// Those change nothing.
	for _, line := range []string{"status --all", "status -A", "tail --all --no-follow", "enable --all --dry-run=client"} {
		if _, _, stderr := statusServer().start(t)(strings.Fields(line)...); strings.Contains(stderr, "confirmed") {
			t.Errorf("%s: %q", line, stderr)
		}
	}
}

func TestPodsOfSeveralNamespacesAreToldApart(t *testing.T) {
	var g gatewayContainers
	prints(t, (&apiServer{gateway: g.run, pods: []corev1.Pod{
		podWithGateway("demo", "web", gatewayRuns()), podWithGateway("other", "web", nil), podWithGateway("third", "open", gatewayRuns()),
	}}).start(t), printed{"mode --all -A --yes strict", 0, "pod/web -n demo gateway mode strict\n|pod/open -n third gateway mode strict\n", "pod/web -n other: skipped"})
}

func TestEnableOfAWorkload(t *testing.T) {
	finished := fakecluster.NewPod("old")
	finished.Status.Phase = corev1.PodFailed
	r := enableRun{pods: []*corev1.Pod{finished, fakecluster.NewPod("a")}, taken: true, workloads: []targets.Workload{
		{Namespace: "shop", Name: "deployment/web", Watch: "kubectl gateway watch deployment/web -n shop"},
		{Namespace: "shop", Name: "rollouts.extension.example/green"},
	}}
	if err := r.run(t, t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(r.out.String(), "pod/a gateway enabled") {
		t.Errorf("%q", &r.out)
	}
	for _, want := range []string{"pod/old: skipped",
		"\nnew pods of deployment/web get no gateway by themselves: kubectl gateway watch deployment/web -n shop\n",
		"\nnew pods of rollouts.extension.example/green get no gateway by themselves\n"} {
		if strings.Count(r.errOut.String(), want) != 1 {
			t.Errorf("%q is not there once in:\n%s", want, &r.errOut)
		}
	}
}

func TestEnableIsConfirmed(t *testing.T) {
	r := enableRun{pods: []*corev1.Pod{fakecluster.NewPod("a")}, unconfirmed: true, real: true}
	r.o.targets.All = true
	if err := r.run(t, t.Context()); err == nil || errors.Is(err, errReported) || !strings.Contains(err.Error(), "needs a confirmation") || r.out.Len() != 0 {
		t.Errorf("%v, %q", err, r.out.String())
	}
}

func TestHowMany(t *testing.T) {
	var pods []corev1.Pod
	for i := range 37 {
		pods = append(pods, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("n", i%5)}})
	}
	for want, pods := range map[string][]corev1.Pod{
		"37 pods in 5 namespaces": pods, "2 pods in 2 namespaces": pods[:2],
		`1 pod in namespace "n0"`: pods[:1], `2 pods in namespace "n0"`: {pods[0], pods[5]},
	} {
		if got := howMany(pods); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
