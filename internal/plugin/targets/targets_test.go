package targets

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/kubernetes"
	k8stesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func pod(namespace, name, app string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app}}}
}

func cluster(t *testing.T) *fakecluster.Cluster {
	return fakecluster.New(t,
		pod("demo", "web-2", "web"), pod("demo", "web-1", "web"), pod("demo", "db", "db"),
		pod("other", "web-3", "web"), pod("another", "cache", "cache"),
	)
}

// selectFrom selects pods without any need to know the server's kinds.
func selectFrom(t *testing.T, flags Flags, client kubernetes.Interface, namespace string, args ...string) ([]corev1.Pod, error) {
	t.Helper()
	found, err := flags.find(t.Context(), &connection{client: client, namespace: namespace}, args)
	return found.Pods, err
}

func names(pods []corev1.Pod) []string {
	var all []string
	for _, p := range pods {
		all = append(all, p.Namespace+"/"+p.Name)
	}
	return all
}

func TestSelect(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags Flags
		args  []string
		want  []string
	}{
		{"one", Flags{}, []string{"pod/db"}, []string{"demo/db"}},
		{"kubectl's words for pods", Flags{}, []string{"pods/web-1", "po/web-2", "Pod/db"}, []string{"demo/web-1", "demo/web-2", "demo/db"}},
		{"bare names, in their order, each once", Flags{}, []string{"web-2", "db", "pod/web-2", "web-1"}, []string{"demo/web-2", "demo/db", "demo/web-1"}},
		{"a selector", Flags{Selector: "app in (web)"}, nil, []string{"demo/web-1", "demo/web-2"}},
		{"all", Flags{All: true}, nil, []string{"demo/db", "demo/web-1", "demo/web-2"}},
		{"all of all namespaces", Flags{All: true, AllNamespaces: true}, nil,
			[]string{"another/cache", "demo/db", "demo/web-1", "demo/web-2", "other/web-3"}},
		{"a selector over all namespaces", Flags{Selector: "app=web", AllNamespaces: true}, nil,
			[]string{"demo/web-1", "demo/web-2", "other/web-3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := must.Get(selectFrom(t, c.flags, cluster(t), "demo", c.args...))(t)
			if !slices.Equal(names(got), c.want) {
				t.Errorf("got %q, want %q", names(got), c.want)
			}
		})
	}
}

func TestSelectErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags Flags
		args  []string
		is    error
		text  string
		hint  string
	}{
		{"nothing", Flags{}, nil, ErrNothingNamed, "no pod is named", "name a pod or a workload, as in pod/web-0 or deploy/web, or use -l, -f or --all"},
		{"only -A", Flags{AllNamespaces: true}, nil, ErrNothingNamed, "", "add --all"},
		{"absent", Flags{}, []string{"pod/nope"}, nil, `pod "nope" not found in namespace "demo"`, "kubectl get pods -n demo"},
		{"an empty kind", Flags{}, []string{"/web"}, nil, `"/web" has no kind`, "deploy/web"},
		{"a workload without a name", Flags{}, []string{"deploy/"}, nil, `"deploy/" does not name one object`, "deploy/web"},
		{"several kinds at once", Flags{}, []string{"deploy,sts/web"}, nil, "does not name one object", "deploy/web"},
		{"an empty name", Flags{}, []string{"pod/"}, nil, `"pod/" does not name a pod`, "pod/NAME"},
		{"an empty argument", Flags{}, []string{""}, nil, `"" does not name a pod`, "pod/NAME"},
		{"too many slashes", Flags{}, []string{"pod/demo/db"}, nil, "does not name a pod", "pod/NAME"},
		{"no match", Flags{Selector: "app=none"}, nil, ErrNoMatch, `none in namespace "demo" matches "app=none"`, "--show-labels"},
		{"no match anywhere", Flags{Selector: "app=none", AllNamespaces: true}, nil, ErrNoMatch, "none in any namespace", ""},
		{"a broken selector", Flags{Selector: "app=(("}, nil, nil, "reading the selector", "kubectl get -l"},
		{"name and selector", Flags{Selector: "app=web"}, []string{"db"}, nil, "use one of them", ""},
		{"name and all", Flags{All: true}, []string{"db"}, nil, "use one of them", ""},
		{"selector and all", Flags{All: true, Selector: "app=web"}, nil, nil, "use one of them", ""},
		{"name and field selector", Flags{FieldSelector: "a=b"}, []string{"db"}, nil, "use one of them", ""},
		{"name and file", Flags{Files: files("x")}, []string{"db"}, nil, "use one of them", ""},
		{"file and selector", Flags{Files: files("x"), Selector: "app=web"}, nil, nil, "use one of them", ""},
		{"file and all", Flags{Files: files("x"), All: true}, nil, nil, "use one of them", ""},
		{"file in all namespaces", Flags{Files: files("x"), AllNamespaces: true}, nil, nil, "leave -A out", ""},
		{"file and kustomization", Flags{Files: resource.FilenameOptions{Filenames: []string{"x"}, Kustomize: "y"}}, nil, nil, "-k goes neither", ""},
		{"-R without a file", Flags{Files: resource.FilenameOptions{Recursive: true}, All: true}, nil, nil, "-R is given without", "-R"},
		{"a broken field selector", Flags{FieldSelector: "nothing"}, nil, nil, "reading the field selector", "--field-selector"},
		{"a name in all namespaces", Flags{AllNamespaces: true}, []string{"db"}, nil, "use -n instead of -A", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := selectFrom(t, c.flags, cluster(t), "demo", c.args...)
			expect.Refusal(t, c.name, err, c.is, c.text, c.hint)
			expect.Equal(t, "pods", nil, names(got))
		})
	}
}

func files(names ...string) resource.FilenameOptions {
	return resource.FilenameOptions{Filenames: names}
}

func TestEmptyNamespace(t *testing.T) {
	_, err := selectFrom(t, Flags{All: true}, fakecluster.New(t), "void")
	if !errors.Is(err, ErrNoMatch) || err.Error() != `no pod found in namespace "void"` {
		t.Errorf("got %v", err)
	}
}

func TestForbiddenHasAHint(t *testing.T) {
	client := cluster(t)
	client.Forbid("*", "pods")
	for _, c := range []struct {
		flags Flags
		args  []string
	}{{Flags{}, []string{"db"}}, {Flags{All: true}, nil}} {
		_, err := selectFrom(t, c.flags, client, "demo", c.args...)
		if !apierrors.IsForbidden(err) || !strings.Contains(api.Hint(err), "role") {
			t.Errorf("%v: got %v, hint %q", c, err, api.Hint(err))
		}
	}
}

func TestLongListsAreReadInChunks(t *testing.T) {
	var limits []int64
	client := cluster(t)
	client.PrependReactor("list", "pods", func(action k8stesting.Action) (bool, runtime.Object, error) {
		options := action.(k8stesting.ListActionImpl).ListOptions
		limits = append(limits, options.Limit)
		if options.Continue == "" {
			return true, &corev1.PodList{ListMeta: metav1.ListMeta{Continue: "more"}, Items: []corev1.Pod{*pod("demo", "b", "")}}, nil
		}
		return true, &corev1.PodList{Items: []corev1.Pod{*pod("demo", "a", "")}}, nil
	})
	got, err := selectFrom(t, Flags{All: true}, client, "demo")
	if err != nil || !slices.Equal(names(got), []string{"demo/a", "demo/b"}) {
		t.Errorf("got %q, %v", names(got), err)
	}
	if len(limits) != 2 || limits[0] == 0 {
		t.Errorf("limits of the requests: %v", limits)
	}
}

// A wrong command line must be reported as such also where no cluster is.
func TestPodsChecksTheCommandLineFirst(t *testing.T) {
	t.Setenv("KUBECONFIG", t.TempDir()+"/none")
	_, err := (&Flags{}).Find(context.Background(), genericclioptions.NewConfigFlags(false), nil)
	if !errors.Is(err, ErrNothingNamed) {
		t.Errorf("got %v", err)
	}
}

func TestAddFlags(t *testing.T) {
	var f Flags
	set := pflag.NewFlagSet("x", pflag.ContinueOnError)
	f.AddFlags(set)
	must.Do(t, set.Parse([]string{"-l", "a=b", "--field-selector=c=d", "--all", "-A", "-f", "x", "-f=-", "-R", "-k", "y"}))
	want := Flags{Selector: "a=b", FieldSelector: "c=d", All: true, AllNamespaces: true,
		Files: resource.FilenameOptions{Filenames: []string{"x", "-"}, Recursive: true, Kustomize: "y"}}
	expect.Equal(t, "flags", want, f)
	set = pflag.NewFlagSet("x", pflag.ContinueOnError)
	(&Flags{}).AddFlagsButF(set)
	if set.ShorthandLookup("f") != nil || set.Lookup("filename") == nil {
		t.Error("-f is taken")
	}
}
