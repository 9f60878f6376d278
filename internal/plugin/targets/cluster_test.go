package targets

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/kindstest"
)

// server is an API server with objects, in memory. It keeps the paths of the
// requests made.
type server struct {
	objects []object
	// refuse are the paths that may not be read.
	refuse string
	// hang are the paths whose requests are answered when their client gives up.
	hang string
	// hanging is told of each such request.
	hanging chan<- struct{}

	mu       sync.Mutex
	requests []string
	// query is that of the last request.
	query url.Values
}

// object is what the server needs to know of an object.
type object struct {
	// path is that of the object's list.
	path string
	body map[string]any
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests, s.query = append(s.requests, r.URL.Path), r.URL.Query()
	s.mu.Unlock()
	answer := func(code int, value any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(value)
	}
	status := func(code int, reason metav1.StatusReason) {
		answer(code, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: string(reason)})
	}
	switch {
	case s.hang != "" && strings.HasPrefix(r.URL.Path, s.hang):
		s.hanging <- struct{}{}
		<-r.Context().Done()
		return
	case s.refuse != "" && strings.HasPrefix(r.URL.Path, s.refuse):
		status(http.StatusForbidden, metav1.StatusReasonForbidden)
		return
	case kindstest.Serve(w, r):
		return
	}
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		status(http.StatusBadRequest, metav1.StatusReasonBadRequest)
		return
	}
	items, isList := []any{}, false
	for _, o := range s.objects {
		metadata := o.body["metadata"].(map[string]any)
		if r.URL.Path == o.path+"/"+metadata["name"].(string) {
			answer(http.StatusOK, o.body)
			return
		}
		set := labels.Set{}
		for key, value := range metadata["labels"].(map[string]any) {
			set[key] = value.(string)
		}
		if r.URL.Path == o.path {
			isList = true
			if selector.Matches(set) {
				items = append(items, o.body)
			}
		}
	}
	if last := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]; isList || slices.Contains([]string{"pods", "replicasets", "jobs"}, last) {
		kind := map[string]string{"pods": "PodList", "replicasets": "ReplicaSetList", "jobs": "JobList"}[last]
		version := map[string]string{"pods": "v1", "replicasets": "apps/v1", "jobs": "batch/v1"}[last]
		answer(http.StatusOK, map[string]any{"kind": kind, "apiVersion": version, "metadata": map[string]any{}, "items": items})
		return
	}
	status(http.StatusNotFound, metav1.StatusReasonNotFound)
}

// add gives the server an object: its API version, KIND/NAME, the namespace,
// labels as a=b,c=d and the owner's KIND/NAME, "" for none. The UID is KIND/NAME.
func (s *server) add(version, what, namespace, set, owner string, spec map[string]any) {
	kind, name, _ := strings.Cut(what, "/")
	metadata := map[string]any{"name": name, "namespace": namespace, "uid": what, "labels": map[string]any{}}
	for _, pair := range strings.Split(set, ",") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			metadata["labels"].(map[string]any)[key] = value
		}
	}
	if kind, name, ok := strings.Cut(owner, "/"); ok {
		metadata["ownerReferences"] = []any{map[string]any{"apiVersion": "v1", "kind": kind, "name": name, "uid": owner, "controller": true}}
	}
	root := "/apis/" + version
	if version == "v1" {
		root = "/api/v1"
	}
	body := map[string]any{"apiVersion": version, "kind": kind, "metadata": metadata}
	if spec != nil {
		body["spec"] = spec
	}
	s.objects = append(s.objects, object{root + "/namespaces/" + namespace + "/" + strings.ToLower(kind) + "s", body})
}

// makes is the spec of a workload that selects app=name.
func makes(app string) map[string]any {
	return map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": app}},
		"template": map[string]any{"spec": map[string]any{"containers": []any{}}}}
}

// flags starts the server and returns the flags of a connection to it, with the
// namespace demo. home is where discovery may be kept.
func (s *server) flags(t *testing.T, home string) *genericclioptions.ConfigFlags {
	t.Helper()
	listening := httptest.NewServer(s)
	t.Cleanup(func() {
		listening.CloseClientConnections()
		listening.Close()
	})
	t.Setenv("KUBECONFIG", t.TempDir()+"/none")
	t.Setenv("HOME", home)
	t.Setenv("KUBECACHEDIR", "")
	namespace := "demo"
	flags := genericclioptions.NewConfigFlags(true)
	flags.APIServer, flags.Namespace = &listening.URL, &namespace
	return flags
}

// seen returns the paths requested since the last call.
func (s *server) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.requests
	s.requests = nil
	return seen
}

// shop is a namespace with workloads of all kinds, and pods that look like theirs.
func shop() *server {
	s := &server{}
	s.add("apps/v1", "Deployment/web", "demo", "", "", makes("web"))
	s.add("apps/v1", "ReplicaSet/web-old", "demo", "app=web", "Deployment/web", makes("web"))
	s.add("apps/v1", "ReplicaSet/web-new", "demo", "app=web", "Deployment/web", makes("web"))
	s.add("apps/v1", "ReplicaSet/stray", "demo", "app=web", "", makes("web"))
	s.add("v1", "Pod/web-new-1", "demo", "app=web", "ReplicaSet/web-new", nil)
	s.add("v1", "Pod/web-old-1", "demo", "app=web", "ReplicaSet/web-old", nil)
	s.add("v1", "Pod/stray-1", "demo", "app=web", "ReplicaSet/stray", nil)
	s.add("v1", "Pod/debug", "demo", "app=web", "", nil)
	s.add("apps/v1", "StatefulSet/db", "demo", "", "", makes("db"))
	s.add("v1", "Pod/db-1", "demo", "app=db", "StatefulSet/db", nil)
	s.add("v1", "Pod/db-0", "demo", "app=db", "StatefulSet/db", nil)
	s.add("apps/v1", "DaemonSet/agent", "demo", "", "", makes("agent"))
	s.add("v1", "Pod/agent-x", "demo", "app=agent", "DaemonSet/agent", nil)
	s.add("batch/v1", "Job/import", "demo", "", "", makes("import"))
	s.add("v1", "Pod/import-x", "demo", "app=import", "Job/import", nil)
	s.add("batch/v1", "CronJob/backup", "demo", "", "", map[string]any{"schedule": "* * * * *"})
	s.add("batch/v1", "Job/backup-1", "demo", "", "CronJob/backup", makes("backup-1"))
	s.add("v1", "Pod/backup-1-x", "demo", "app=backup-1", "Job/backup-1", nil)
	s.add("v1", "ReplicationController/legacy", "demo", "", "", map[string]any{"selector": map[string]any{"app": "legacy"}})
	s.add("v1", "Pod/legacy-x", "demo", "app=legacy", "ReplicationController/legacy", nil)
	s.add("v1", "Service/front", "demo", "", "", map[string]any{"selector": map[string]any{"app": "web"}})
	s.add("v1", "Service/outside", "demo", "", "", map[string]any{"type": "ExternalName"})
	s.add("v1", "Service/idle", "demo", "", "", map[string]any{"selector": map[string]any{"app": "idle"}})
	s.add("v1", "ConfigMap/settings", "demo", "", "", nil)
	s.add("extension.example/v1", "Rollout/green", "demo", "", "", makes("green"))
	s.add("apps/v1", "ReplicaSet/green-1", "demo", "app=green", "Rollout/green", makes("green"))
	s.add("v1", "Pod/green-1-x", "demo", "app=green", "ReplicaSet/green-1", nil)
	s.add("extension.example/v1", "Recipe/soup", "demo", "", "", map[string]any{"selector": map[string]any{}})
	s.add("apps/v1", "Deployment/asleep", "demo", "", "", makes("asleep"))
	s.add("apps/v1", "Deployment/web", "other", "", "", makes("web"))
	s.add("apps/v1", "ReplicaSet/web-far", "other", "app=web", "Deployment/web", makes("web"))
	s.add("v1", "Pod/web-far-1", "other", "app=web", "ReplicaSet/web-far", nil)
	return s
}
