package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// world is a cluster, and a user of it who has its authority: with pod a that
// runs, pod g that has a gateway, and pod d whose gateway has died.
type world struct {
	apiServer
	t   *testing.T
	dir string
	// flags are those of the kubeconfig; authority is the directory of the authority.
	flags     []string
	authority string
	server    *httptest.Server
	// on, if it returns true, has answered instead of the cluster.
	on func(w http.ResponseWriter, r *http.Request) bool
	// version is the server's.
	version string
	// container is the state of gateways that are added.
	container corev1.ContainerState

	mu sync.Mutex
}

const kubeSystem = `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"7d2c7bb0-0000-4000-8000-000000000000"}}`

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), version: "v1.37.2", container: *gatewayRuns()}
	w.authority = filepath.Join(w.dir, "authority")
	running := podWithGateway("demo", "a", nil)
	gateway, dead := podWithGateway("demo", "g", gatewayRuns()), podWithGateway("demo", "d", gatewayDied())
	w.pods = []corev1.Pod{running, gateway, dead}
	for i := range w.pods {
		w.pods[i].ResourceVersion = "7"
		w.pods[i].Status.Phase = corev1.PodRunning
		w.pods[i].Status.PodIP = "10.0.1.7"
	}
	w.answers = map[string]string{"g": readyStatus("g")}
	w.objects = map[string]string{
		"/api/v1/namespaces/kube-system":          kubeSystem,
		"/api/v1/nodes":                           `{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"node-1"},"spec":{"podCIDRs":["10.0.1.0/24"]}}]}`,
		"/apis/networking.k8s.io/v1/servicecidrs": `{"kind":"ServiceCIDRList","apiVersion":"networking.k8s.io/v1","items":[{"spec":{"cidrs":["10.96.0.0/16"]}}]}`,
	}
	w.server = httptest.NewServer(w)
	t.Cleanup(func() {
		w.server.CloseClientConnections()
		w.server.Close()
	})
	w.flags = []string{"--kubeconfig=" + writeKubeconfig(t, w.server.URL), "--cache-dir=" + t.TempDir()}
	w.trust(ca.Options{})
	return w
}

// trust gives the user a new authority, which the cluster trusts.
func (w *world) trust(options ca.Options) {
	w.t.Helper()
	a := must.Get(ca.New(options))(w.t)
	must.Do(w.t, os.RemoveAll(w.authority))
	must.Do(w.t, authority.CreateDir(w.authority, a))
	w.publish(a)
}

// publish makes the cluster trust a.
func (w *world) publish(a *ca.Authority) {
	w.t.Helper()
	text, err := json.Marshal(corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Namespace: authority.Namespace, Name: authority.BundleName, ResourceVersion: "3",
			Annotations: map[string]string{authority.TrustDomainAnnotation: a.TrustDomain()}},
		Data: map[string]string{authority.BundleKey: string(a.Bundle())}})
	must.Do(w.t, err)
	w.apiServer.mu.Lock()
	defer w.apiServer.mu.Unlock()
	w.objects[bundlePath] = string(text)
}

const bundlePath = "/api/v1/namespaces/kube-system/configmaps/kube-gateway-trust"

// forget removes an object.
func (w *world) forget(path string) { delete(w.objects, path) }

// pod returns the pod called name.
func (w *world) pod(name string) *corev1.Pod {
	for i := range w.pods {
		if w.pods[i].Name == name {
			return &w.pods[i]
		}
	}
	w.t.Fatalf("no pod %s", name)
	return nil
}

// refuses answers requests of a method, "" for any, whose path ends so.
func (w *world) refuses(method, suffix string, code int, reason metav1.StatusReason, message string) {
	w.on = func(rw http.ResponseWriter, r *http.Request) bool {
		if method != "" && r.Method != method || !strings.HasSuffix(r.URL.Path, suffix) {
			return false
		}
		words := message
		if code == http.StatusForbidden && words == "" {
			words = denial(r)
		}
		w.refuse(rw, code, reason, words)
		return true
	}
}

// denial is what an API server says when an authorizer denies a request
// (k8s.io/apiserver, handlers/responsewriters).
func denial(r *http.Request) string {
	const who = `User "jane" cannot `
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group := ""
	switch {
	case parts[0] == "api" && len(parts) > 2:
		parts = parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		group, parts = parts[1], parts[3:]
	default:
		return fmt.Sprintf("forbidden: %s%s path %q", who, strings.ToLower(r.Method), r.URL.Path)
	}
	scope := "at the cluster scope"
	if parts[0] == "namespaces" && len(parts) > 2 {
		scope, parts = fmt.Sprintf("in the namespace %q", parts[1]), parts[2:]
	}
	verb := map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	resource, object := parts[0], parts[0]
	if group != "" {
		object += "." + group
	}
	switch {
	case len(parts) > 2:
		resource += "/" + parts[2]
		fallthrough
	case len(parts) > 1:
		object += fmt.Sprintf(" %q", parts[1])
	case verb == "get":
		verb = "list"
	}
	return fmt.Sprintf("%s is forbidden: %s%s resource %q in API group %q %s", object, who, verb, resource, group, scope)
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if w.on != nil && w.on(rw, r) {
		return
	}
	path := r.URL.Path
	switch {
	case path == "/version":
		fmt.Fprintf(rw, `{"major":"1","minor":"37","gitVersion":%q}`, w.version)
	case strings.HasSuffix(path, "/ephemeralcontainers"):
		w.patch(rw, r)
	case r.URL.Query().Get("watch") != "":
		if r.URL.Query().Get("sendInitialEvents") != "" {
			w.refuse(rw, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "no streaming lists")
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusOK)
		rw.(http.Flusher).Flush()
		<-r.Context().Done()
	case strings.HasSuffix(path, "/exec"):
		// A command may last, and the plugin asks for pods meanwhile.
		w.apiServer.ServeHTTP(rw, r)
	default:
		w.mu.Lock()
		defer w.mu.Unlock()
		if fields := r.URL.Query().Get("fieldSelector"); strings.HasPrefix(fields, "metadata.name=") && strings.HasSuffix(path, "/pods") {
			list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: "9"}}
			for _, pod := range w.pods {
				if pod.Name == strings.TrimPrefix(fields, "metadata.name=") {
					list.Items = append(list.Items, pod)
				}
			}
			w.answer(rw, http.StatusOK, list)
			return
		}
		w.apiServer.ServeHTTP(rw, r)
	}
}

// patch adds a gateway to a pod, whose container is then in the state of w.
func (w *world) patch(rw http.ResponseWriter, r *http.Request) {
	var patch struct {
		Spec struct {
			EphemeralContainers []corev1.EphemeralContainer `json:"ephemeralContainers"`
		} `json:"spec"`
	}
	if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := strings.Split(r.URL.Path, "/")[6]
	pod := w.pod(name)
	if r.URL.Query().Get("dryRun") == "" {
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, patch.Spec.EphemeralContainers...)
		for _, c := range patch.Spec.EphemeralContainers {
			pod.Status.EphemeralContainerStatuses = append(pod.Status.EphemeralContainerStatuses, corev1.ContainerStatus{Name: c.Name, State: w.container})
		}
	}
	pod.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	w.answer(rw, http.StatusOK, pod)
}

// answersAs makes the gateways answer with a status.
func (w *world) answersAs(pod string, state api.State, reason string) {
	w.answers[pod] = fmt.Sprintf(`{"state":%q,"reason":%q,"version":"v1","pod":{"uid":"uid-%s"},"mode":"strict"}`, state, reason, pod)
}

// write writes text into a kubeconfig of its own, SERVER being the world's.
func (w *world) write(text string) string {
	path := filepath.Join(w.dir, "kubeconfig")
	must.Do(w.t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "SERVER", w.server.URL)), 0o600))
	return path
}

const kubeconfig = `{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":"SERVER"}}],
	"contexts":[{"name":"c","context":{"cluster":"c","user":"u","namespace":"demo"}}],"users":[{"name":"u","user":{}}]}`

func writeKubeconfig(t *testing.T, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must.Do(t, os.WriteFile(path, []byte(strings.ReplaceAll(kubeconfig, "SERVER", server)), 0o600))
	return path
}
