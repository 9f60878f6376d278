package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/execstreams"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/kindstest"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// apiServer is a small API server: pods, their logs, and exec for gateways that
// answer with their status.
type apiServer struct {
	pods []corev1.Pod
	// answers are the status texts by pod; exec elsewhere is refused.
	answers map[string]string
	// gateway, if not nil, is what runs instead in the containers of pods.
	gateway func(pod string, command []string) (stdout, stderr string, exitCode int)
	// fleet, if not nil, is asked instead of both.
	fleet interface {
		Answer(context.Context, *fakegateway.Call) (any, error)
	}
	// objects are other objects, as JSON by their paths. Clients can make, replace and delete them.
	objects map[string]string
	mu      sync.Mutex // of objects
	// logs are the log texts by pod.
	logs map[string]string
	// slowLogs is how long a log takes to come.
	slowLogs time.Duration
}

// forbidden is an object that may not be read.
const forbidden = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"no role","code":403}`

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if kindstest.Serve(w, r) {
		return
	}
	if s.keeps(w, r) {
		return
	}
	if object := r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/") && strings.Count(r.URL.Path, "/") == 4; object ||
		strings.HasPrefix(r.URL.Path, "/apis/apps/v1/namespaces/") || strings.HasPrefix(r.URL.Path, "/apis/batch/v1/namespaces/") {
		s.refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "not found")
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/api/v1/")
	if path == "/version" {
		fmt.Fprint(w, `{"major":"1","minor":"37","gitVersion":"v1.37.2\u001b[2J"}`)
		return
	}
	namespace := metav1.NamespaceAll
	if rest, ok := strings.CutPrefix(path, "namespaces/"); ok {
		namespace, path, _ = strings.Cut(rest, "/")
	}
	parts := strings.Split(path, "/")
	if parts[0] != "pods" {
		http.Error(w, "unexpected path "+r.URL.Path, http.StatusTeapot)
		return
	}
	switch {
	case len(parts) == 1:
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
		for _, pod := range s.pods {
			if namespace == metav1.NamespaceAll || pod.Namespace == namespace {
				list.Items = append(list.Items, pod)
			}
		}
		s.answer(w, http.StatusOK, list)
	case len(parts) == 2:
		for _, pod := range s.pods {
			if pod.Namespace == namespace && pod.Name == parts[1] {
				pod.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
				s.answer(w, http.StatusOK, pod)
				return
			}
		}
		s.refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "not found")
	case parts[2] == "log" && s.logs[parts[1]] != "":
		w.(http.Flusher).Flush()
		time.Sleep(s.slowLogs)
		fmt.Fprint(w, s.logs[parts[1]])
	case parts[2] == "exec" && s.fleet != nil:
		s.exec(w, r, func(in io.Reader, out, errOut io.Writer) int {
			ref := remote.Ref{Namespace: namespace, Pod: parts[1], Container: r.URL.Query().Get("container")}
			err := fakegateway.Gateways(s.fleet.Answer).Run(r.Context(), ref, in, out, r.URL.Query()["command"]...)
			if exit, ok := errors.AsType[*remote.ExitError](err); ok {
				fmt.Fprint(errOut, exit.Stderr)
				return exit.Code
			} else if err != nil {
				fmt.Fprintf(errOut, "error: %v\n", err)
				return 1
			}
			return 0
		})
	case parts[2] == "exec" && (s.gateway != nil || s.answers[parts[1]] != ""):
		stdout, stderr, code := s.answers[parts[1]], "", 0
		if s.gateway != nil {
			stdout, stderr, code = s.gateway(parts[1], r.URL.Query()["command"])
		}
		s.exec(w, r, func(_ io.Reader, out, errOut io.Writer) int {
			fmt.Fprint(out, stdout)
			fmt.Fprint(errOut, stderr)
			return code
		})
	default:
		s.refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, "no role")
	}
}

// keeps answers requests about objects, of which those that a survey or an informer lists are there but
// for their items, and reports whether r is one.
func (s *apiServer) keeps(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := r.URL.Path
	object, ok := s.objects[path]
	code := http.StatusOK
	switch {
	case strings.HasSuffix(path, "/exec") || r.Method == http.MethodPatch:
		return false
	case strings.HasSuffix(path, "/selfsubjectaccessreviews"):
		object = `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":true}}`
	case r.Method == http.MethodPost || r.Method == http.MethodPut:
		// The client chooses the encoding; answers may be JSON always.
		body, _ := io.ReadAll(r.Body)
		made, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return true
		}
		if r.Method == http.MethodPost {
			path, code = path+"/"+made.(metav1.Object).GetName(), http.StatusCreated
		}
		text, _ := json.Marshal(made)
		object = string(text)
		if s.objects == nil {
			s.objects = map[string]string{}
		}
		s.objects[path] = object
	case r.Method == http.MethodDelete:
		delete(s.objects, path)
		object = `{"kind":"Status","apiVersion":"v1","status":"Success"}`
	case object == forbidden:
		code = http.StatusForbidden
	case ok:
	case emptyLists.MatchString(path):
		object = `{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}`
	case strings.HasPrefix(path, "/api/v1/namespaces/kube-system"):
		s.refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "not found")
		return true
	default:
		return false
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprint(w, object)
	return true
}

var emptyLists = regexp.MustCompile(`/(namespaces|nodes|services|servicecidrs|endpointslices|secrets|replicasets|deployments|statefulsets|daemonsets|jobs|\w+webhookconfigurations|customresourcedefinitions|apiservices)$`)

func (s *apiServer) answer(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value)
}

func (s *apiServer) refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	s.answer(w, code, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message})
}

// exec runs do in the place of a command, which ends with the code that do returns.
func (s *apiServer) exec(w http.ResponseWriter, r *http.Request, do func(stdin io.Reader, stdout, stderr io.Writer) (code int)) {
	execstreams.Serve(w, r, func(stdin io.Reader, stdout, stderr io.Writer) metav1.Status {
		return execstreams.Exit(do(stdin, stdout, stderr))
	})
}

// start makes a kubeconfig for s and returns what runs a command line with it.
func (s *apiServer) start(t *testing.T) func(args ...string) (code int, stdout, stderr string) {
	t.Helper()
	config := s.kubeconfig(t)
	return func(args ...string) (int, string, string) {
		return execute(t, append(args, config...)...)
	}
}

// execute runs a command line.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	code = run(ctx, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut}, args)
	return code, out.String(), errOut.String()
}

// fails runs command lines, which must print nothing, say the words of the table, at the
// beginning if they are "error: ", and end with code.
func fails(t *testing.T, run func(args ...string) (code int, stdout, stderr string), code int, lines map[string]string) {
	t.Helper()
	for line, want := range lines {
		got, stdout, stderr := run(strings.Fields(line)...)
		if got != code || stdout != "" || !strings.Contains(stderr, want) || strings.HasPrefix(want, "error: ") && !strings.HasPrefix(stderr, want) {
			t.Errorf("%s: exit code %d, %q, stderr:\n%s\nwant %q", line, got, stdout, stderr, want)
		}
	}
}

// printed is what a command line prints, and its exit code. The words of a stream are divided by "|", and
// those behind "!" are not there.
type printed struct {
	line        string
	code        int
	out, errOut string
}

// nothing is what a stream holds without a line.
const nothing = "!\n"

// prints runs command lines.
func prints(t *testing.T, run func(args ...string) (code int, stdout, stderr string), all ...printed) {
	t.Helper()
	lacks := func(stream, words string) bool {
		return slices.ContainsFunc(strings.Split(words, "|"), func(word string) bool {
			word, not := strings.CutPrefix(word, "!")
			return strings.Contains(stream, word) == not
		})
	}
	for _, want := range all {
		if code, stdout, stderr := run(strings.Fields(want.line)...); code != want.code || lacks(stdout, want.out) || lacks(stderr, want.errOut) {
			t.Errorf("%s: exit code %d, stdout:\n%s\nstderr:\n%s\nwant %+v", want.line, code, stdout, stderr, want)
		}
	}
}

// runOn runs one command line with s.
func runOn(t *testing.T, ctx context.Context, s *apiServer, streams genericiooptions.IOStreams, args ...string) int {
	return run(ctx, streams, append(args, s.kubeconfig(t)...))
}

// events returns the events that were written, with the beginning of their messages, in the order of pods and reasons.
func (s *apiServer) events(t *testing.T) (list []string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, object := range s.objects {
		var e corev1.Event
		if strings.Contains(path, "/events/") {
			must.Do(t, json.Unmarshal([]byte(object), &e))
			list = append(list, fmt.Sprintf("%s %s: %.20s", e.InvolvedObject.Name, e.Reason, e.Message))
		}
	}
	slices.Sort(list)
	return list
}

// kubeconfig starts s and returns the flags with which commands find it.
func (s *apiServer) kubeconfig(t *testing.T) []string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return []string{"--kubeconfig=" + writeKubeconfig(t, server.URL), "--cache-dir=" + t.TempDir()}
}

// podWithGateway returns a pod, with a gateway in the given state unless that is nil.
func podWithGateway(namespace, name string, state *corev1.ContainerState) corev1.Pod {
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name)},
		Spec:   corev1.PodSpec{NodeName: "node-1"},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.1.7"}}}}
	if state == nil {
		return pod
	}
	config := fmt.Sprintf(`{"version":1,"pod":{"namespace":%q,"name":%q,"uid":"uid-%s","serviceAccount":"default"},
		"podIPs":["10.0.1.7"],"trustDomain":"td","mode":"strict","onFailure":"closed","ranges":["10.0.0.0/8"]}`, namespace, name, name)
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "kube-gateway", Image: "gateway:v1", Env: []corev1.EnvVar{{Name: api.EnvConfig, Value: config}}}}}
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "kube-gateway", State: *state}}
	return pod
}

func gatewayRuns() *corev1.ContainerState {
	return &corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
}

func gatewayDied() *corev1.ContainerState {
	return &corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Message: "no cgroup"}}
}

func readyStatus(name string) string {
	return fmt.Sprintf(`{"state":"ready","version":"v1","pod":{"uid":"uid-%s"},"mode":"strict","identity":"spiffe://td/ns/demo/sa/default",
		"traffic":{"outbound":{"encrypted":4,"plaintext":1}}}`, name)
}
