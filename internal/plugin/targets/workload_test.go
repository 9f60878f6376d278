package targets

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestWorkloads(t *testing.T) {
	flags := shop().flags(t, t.TempDir())
	for args, want := range map[string][2]string{
		"deploy/web":            {"web-new-1 web-old-1", "deployment/web"},
		"deployments.apps/web":  {"web-new-1 web-old-1", "deployment/web"},
		"Deployment/web":        {"web-new-1 web-old-1", "deployment/web"},
		"rs/web-old":            {"web-old-1", "replicaset/web-old"},
		"sts/db":                {"db-0 db-1", "statefulset/db"},
		"ds/agent":              {"agent-x", "daemonset/agent"},
		"job/import":            {"import-x", "job/import"},
		"cronjob/backup":        {"backup-1-x", "cronjob/backup"},
		"cj/backup":             {"backup-1-x", "cronjob/backup"},
		"rc/legacy":             {"legacy-x", "replicationcontroller/legacy"},
		"svc/front":             {"debug stray-1 web-new-1 web-old-1", ""},
		"ro/green":              {"green-1-x", "rollouts.extension.example/green"},
		"pod/debug sts/db db-1": {"debug db-0 db-1", "statefulset/db"},
		"db-1 sts/db debug":     {"db-1 db-0 debug", "statefulset/db"},
		"sts/db deploy/web":     {"db-0 db-1 web-new-1 web-old-1", "statefulset/db deployment/web"},
		"deploy/web svc/front":  {"web-new-1 web-old-1 debug stray-1", "deployment/web"},
		"deploy/web rs/web-old": {"web-new-1 web-old-1", "deployment/web replicaset/web-old"},
		"deploy/web deploy.apps/web deployment/web": {"web-new-1 web-old-1", "deployment/web"},
	} {
		found, err := (&Flags{}).Find(t.Context(), flags, strings.Fields(args))
		if err != nil {
			t.Errorf("%s: %v", args, err)
		}
		var workloads, pods []string
		for _, pod := range found.Pods {
			pods = append(pods, pod.Name)
			if pod.Namespace != "demo" {
				t.Errorf("%s: a pod of namespace %s", args, pod.Namespace)
			}
			if isNamed := slices.ContainsFunc(strings.Fields(args), func(arg string) bool { return strings.TrimPrefix(arg, "pod/") == pod.Name }); found.IsNamed(&pod) != isNamed {
				t.Errorf("%s: %s is named: %t", args, pod.Name, !isNamed)
			}
		}
		for _, w := range found.Workloads {
			want := "kubectl gateway watch " + w.Name + " -n demo"
			if strings.HasPrefix(w.Name, "rollout") || strings.HasPrefix(w.Name, "replicationc") {
				want = ""
			}
			if w.Watch != want || w.Namespace != "demo" {
				t.Errorf("%s: %+v", args, w)
			}
			workloads = append(workloads, w.Name)
		}
		expect.Equal(t, args, want, [2]string{strings.Join(pods, " "), strings.Join(workloads, " ")})
	}
}

func TestMistakesWithWorkloads(t *testing.T) {
	flags := shop().flags(t, t.TempDir())
	for args, want := range map[string]struct {
		text, hint string
		is         error
	}{
		"deploy/nope":     {`deployment/nope not found in namespace "demo"`, "'kubectl get deployment -n demo' lists", nil},
		"ro/nope":         {`rollouts.extension.example/nope not found`, "'kubectl get rollouts.extension.example -n demo'", nil},
		"deplo/web":       {`the server doesn't have a resource type "deplo"`, "kubectl api-resources", nil},
		"deploy/asleep":   {`deployment/asleep in namespace "demo" has none at present`, "'kubectl gateway watch deployment/asleep -n demo'", ErrNoMatch},
		"svc/idle":        {`service/idle in namespace "demo" has none`, "kubectl get pods", ErrNoMatch},
		"svc/outside":     {"service/outside has no selector", "-l", nil},
		"cm/settings":     {"configmap/settings is neither a pod nor a workload", "deploy/NAME", nil},
		"node/n1":         {"node/n1 is neither a pod nor a workload", "deploy/NAME", nil},
		"ns/demo":         {"namespace/demo is neither a pod nor a workload", "deploy/NAME", nil},
		"recipe/soup":     {"recipes.extension.example/soup is neither a pod nor a workload", "deploy/NAME", nil},
		"deploy/a,b":      {"deployment/a,b not found", "", nil},
		"deploy web":      {`pod "deploy" not found`, "", nil},
		"deploy/web/x":    {"does not name one object", "deploy/web", nil},
		"cm/settings x/y": {`resource type "x"`, "kubectl api-resources", nil},
	} {
		found, err := (&Flags{}).Find(t.Context(), flags, strings.Fields(args))
		if err == nil || len(found.Pods) != 0 || len(found.Workloads) != 0 {
			t.Errorf("%s: %+v, %v", args, found, err)
			continue
		}
		if !strings.Contains(err.Error(), want.text) || !strings.Contains(api.Hint(err), want.hint) || want.is != nil && !errors.Is(err, want.is) {
			t.Errorf("%s: %q, hint %q", args, err, api.Hint(err))
		}
	}
}

func TestWhatIsFoundComesWithTheErrorOfTheOthers(t *testing.T) {
	found, err := (&Flags{}).Find(t.Context(), shop().flags(t, t.TempDir()), []string{"deploy/nope", "sts/db", "gone", "debug", "cm/settings", "deploy/asleep"})
	expect.Equal(t, "pods", []string{"demo/db-0", "demo/db-1", "demo/debug"}, names(found.Pods))
	for _, want := range []string{"deployment/nope not found", `pod "gone" not found`, "configmap/settings", "deployment/asleep"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

// What may not be listed must not look as if it were not there.
func TestWorkloadsThatMayNotBeRead(t *testing.T) {
	for _, path := range []string{"/apis/apps/v1/namespaces/demo/deployments", "/apis/apps/v1/namespaces/demo/replicasets", "/api/v1/namespaces/demo/pods"} {
		s := shop()
		s.refuse = path
		found, err := (&Flags{}).Find(t.Context(), s.flags(t, t.TempDir()), []string{"deploy/web"})
		if len(found.Pods) != 0 || !apierrors.IsForbidden(err) || !strings.Contains(api.Hint(err), "role") {
			t.Errorf("%s: %q, %v, %q", path, names(found.Pods), err, api.Hint(err))
		}
	}
}

// Pods are named often and in scripts: that must cost one request each.
func TestRequests(t *testing.T) {
	s := shop()
	flags := s.flags(t, t.TempDir())
	for _, c := range []struct {
		args string
		want []string
	}{
		{"pod/debug", []string{"/api/v1/namespaces/demo/pods/debug"}},
		{"sts/db", []string{"/api", "/apis", "/apis/apps/v1/namespaces/demo/statefulsets/db", "/api/v1/namespaces/demo/pods"}},
		{"deploy/web", []string{"/apis/apps/v1/namespaces/demo/deployments/web", "/api/v1/namespaces/demo/pods", "/apis/apps/v1/namespaces/demo/replicasets"}},
	} {
		if _, err := (&Flags{}).Find(t.Context(), flags, []string{c.args}); err != nil {
			t.Fatal(err)
		}
		expect.Equal(t, c.args, c.want, s.seen())
	}
}

// The kinds of the server are kept on disk where that is possible, and asked for
// where it is not.
func TestKindsAreKept(t *testing.T) {
	s := shop()
	home := t.TempDir()
	flags := s.flags(t, home)
	find := func(cache string) int {
		t.Helper()
		again := genericclioptions.NewConfigFlags(true)
		again.APIServer, again.Namespace = flags.APIServer, flags.Namespace
		if cache != "" {
			again.CacheDir = &cache
		}
		s.seen()
		got, err := (&Flags{}).Find(t.Context(), again, []string{"sts/db"})
		if err != nil || len(got.Pods) != 2 {
			t.Errorf("cache %q: %q, %v", cache, names(got.Pods), err)
		}
		return len(s.seen())
	}
	if first, second := find(""), find(""); first != 4 || second != 2 {
		t.Errorf("%d requests, then %d", first, second)
	}
	blocked := filepath.Join(t.TempDir(), "file")
	must.Do(t, os.WriteFile(blocked, nil, 0o600))
	for _, cache := range []string{filepath.Join(blocked, "cache"), "/proc/none"} {
		if first, second := find(cache), find(cache); first != 4 || second != 4 {
			t.Errorf("%s: %d requests, then %d", cache, first, second)
		}
	}
}

const manifests = `
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: settings}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {spec: {}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: debug, namespace: demo}}
---
{apiVersion: v1, kind: Service, metadata: {name: front}}
---
{apiVersion: extension.example/v1, kind: Rollout, metadata: {name: green}, spec: {template: {spec: {}}}}
---
{apiVersion: extension.example/v1, kind: Recipe, metadata: {name: soup}}
`

func TestFiles(t *testing.T) {
	flags := shop().flags(t, t.TempDir())
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must.Do(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)))
		return path
	}
	all := write("app.yaml", manifests)
	write("more/db.json", `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"db"}}`)
	write("more/kustomization.yaml", "resources: [db.json]\n")
	far := write("far.yml", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: other}}")
	const settings = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}}"
	const app = "demo/web-new-1 demo/web-old-1 demo/debug demo/green-1-x"
	for _, c := range []struct {
		what       string
		files      resource.FilenameOptions
		in         string
		want, text string
	}{
		{"a file", files(all), "", app, ""},
		{"the standard input", files("-"), manifests, app, ""},
		{"a file and the standard input", files("-", all), "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}}", app + " demo/agent-x", ""},
		{"a directory", files(dir), "", app, "does not match the namespace"},
		{"a directory with what is below it", resource.FilenameOptions{Filenames: []string{filepath.Join(dir, "more")}, Recursive: true}, "", "demo/db-0 demo/db-1", "unable to decode"},
		{"a kustomization", resource.FilenameOptions{Kustomize: filepath.Join(dir, "more")}, "", "demo/db-0 demo/db-1", ""},
		{"another namespace than -n", files(far), "", "", "does not match the namespace"},
		{"a file that is not there", files(filepath.Join(dir, "nope.yaml")), "", "", "does not exist"},
		{"nothing with pods", files("-"), settings, "", "none of the 1 objects in the files"},
		{"nothing at all", files("-"), "", "", "none of the 0 objects in the files"},
		{"no manifest", files("-"), "hello", "", "reading the files"},
		{"an unknown kind beside a known one", files("-"), "{apiVersion: x.example/v1, kind: Thing, metadata: {name: x}}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: debug}}", "demo/debug", `"Thing"`},
		{"a generated name", files("-"), "{apiVersion: batch/v1, kind: Job, metadata: {generateName: x-}}", "", "a Job in the files has no name"},
		{"a workload without pods beside others", files("-"), "{apiVersion: apps/v1, kind: Deployment, metadata: {name: asleep}}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: debug}}", "demo/debug", ""},
		{"a workload without pods", files("-"), "{apiVersion: apps/v1, kind: Deployment, metadata: {name: asleep}}", "", "deployment/asleep in namespace"},
		{"an object that is not there", files("-"), "{apiVersion: apps/v1, kind: Deployment, metadata: {name: nope}}", "", "deployment/nope not found"},
	} {
		t.Run(c.what, func(t *testing.T) {
			found, err := (&Flags{Files: c.files, In: strings.NewReader(c.in)}).Find(t.Context(), flags, nil)
			got, want := names(found.Pods), strings.Fields(c.want)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			expect.Error(t, err, c.text)
		})
	}
}

// A file names its namespace; -n is for those that do not, unless it was given.
func TestFilesNameTheirNamespaces(t *testing.T) {
	flags := shop().flags(t, t.TempDir())
	flags.Namespace = nil
	const manifest = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: other}}"
	got, err := (&Flags{Files: files("-"), In: strings.NewReader(manifest)}).Find(t.Context(), flags, nil)
	if err != nil || !slices.Equal(names(got.Pods), []string{"other/web-far-1"}) {
		t.Errorf("%q, %v", names(got.Pods), err)
	}
}

func TestFieldSelectorGoesToTheServer(t *testing.T) {
	s := &server{}
	_, err := (&Flags{Selector: "app=web", FieldSelector: "spec.nodeName=n1,status.phase!=Failed"}).Find(t.Context(), s.flags(t, t.TempDir()), nil)
	if !errors.Is(err, ErrNoMatch) || !strings.Contains(err.Error(), "app=web and spec.nodeName=n1") {
		t.Error(err)
	}
	if s.query.Get("fieldSelector") != "spec.nodeName=n1,status.phase!=Failed" || s.query.Get("labelSelector") != "app=web" {
		t.Errorf("asked for %q", s.query)
	}
}

// Whatever is waited for, an interrupted command ends at once.
func TestInterrupted(t *testing.T) {
	for what, c := range map[string]struct {
		hang  string
		args  []string
		flags Flags
	}{
		"the server's kinds": {hang: "/api", args: []string{"deploy/web"}},
		"a workload":         {hang: "/apis/apps/v1/namespaces", args: []string{"deploy/web"}},
		"pods":               {hang: "/api/v1/namespaces", args: []string{"deploy/web"}},
		"the standard input": {flags: Flags{Files: files("-")}},
	} {
		t.Run(what, func(t *testing.T) {
			s := shop()
			hanging := make(chan struct{}, 100)
			s.hang, s.hanging = c.hang, hanging
			ctx, interrupt := context.WithCancel(t.Context())
			reader, writer := io.Pipe()
			defer writer.Close()
			c.flags.In = &signalReader{reader, hanging}
			go func() {
				<-hanging
				interrupt()
			}()
			done := make(chan error, 1)
			flags := s.flags(t, t.TempDir())
			go func() {
				_, err := c.flags.Find(ctx, flags, c.args)
				done <- err
			}()
			if err := expect.Within(t, done); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// signalReader tells when it is read from.
type signalReader struct {
	io.Reader
	reading chan<- struct{}
}

func (r *signalReader) Read(p []byte) (int, error) {
	r.reading <- struct{}{}
	return r.Reader.Read(p)
}
