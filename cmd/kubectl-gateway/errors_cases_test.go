package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// refusedBy returns a world where requests of a method to paths with this end fail so.
func refusedBy(method, suffix string, code int, reason metav1.StatusReason, message string) func(*world) {
	return func(w *world) { w.refuses(method, suffix, code, reason, message) }
}

// noRole returns a world whose user may not do that, in the server's own words.
func noRole(method, suffix string) func(*world) {
	return refusedBy(method, suffix, http.StatusForbidden, metav1.StatusReasonForbidden, "")
}

// always refuses whatever is asked.
func always(code int, reason metav1.StatusReason, message string) func(*world) {
	return func(w *world) {
		w.refuses("", "", code, reason, message)
	}
}

// waits is a world whose added gateways wait for a reason.
func waits(reason, message string) func(*world) {
	return func(w *world) {
		w.container = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
}

// podIs changes pod a.
func podIs(change func(*corev1.Pod)) func(*world) {
	return func(w *world) { change(w.pod("a")) }
}

// gatewaySays makes every gateway end its commands so.
func gatewaySays(stderr string, code int) func(*world) {
	return func(w *world) {
		w.gateway = func(string, []string) (string, string, int) { return "", stderr, code }
	}
}

// page is a world where something else answers, with a page for browsers.
func page(code int) func(*world) {
	return func(w *world) {
		w.on = func(rw http.ResponseWriter, _ *http.Request) bool { return answerPage(rw, code) }
	}
}

func answerPage(rw http.ResponseWriter, code int) bool {
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	rw.WriteHeader(code)
	fmt.Fprint(rw, "<html>\x1b[2Jplease\nlog in</html>")
	return true
}

const noConfig = `{"apiVersion":"v1","kind":"Config"}`

func errorCases() []errorCase {
	config := func(server string) string { return strings.ReplaceAll(kubeconfig, "SERVER", server) }
	cases := []errorCase{
		{name: "no such name", args: "status", config: config("https://no-such-host.invalid"), says: "no-such-host.invalid", hints: "name of the API server"},
		{name: "no answer in time", args: "status --request-timeout=200ms", hints: "is the cluster reachable?",
			world: func(w *world) {
				w.on = func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
			}},
		{name: "kubeconfig missing", args: "status --kubeconfig=DIR/missing", says: "reading the kubeconfig", hints: "check --kubeconfig"},
		{name: "kubeconfig damaged", args: "status", config: "{nonsense", says: "reading the kubeconfig", hints: "check --kubeconfig"},
		{name: "not an API server", args: "status", hints: "'kubectl gateway check'", world: func(w *world) {
			w.on = func(rw http.ResponseWriter, _ *http.Request) bool {
				http.Error(rw, "<html>\x1b[2Jwelcome\n\nto the proxy", http.StatusTeapot)
				return true
			}
		}},
		{name: "a login elsewhere", args: "status", says: "sends to a web page at https://login.example", hints: "wants a login", world: func(w *world) {
			w.on = func(rw http.ResponseWriter, r *http.Request) bool {
				http.Redirect(rw, r, "https://login.example/next", http.StatusFound)
				return true
			}
		}},
		{name: "a load balancer without a server", args: "status", says: "502", hints: "load balancer", world: page(http.StatusBadGateway)},
		{name: "a page instead of a gateway", args: "mode pod/g strict", says: "web page", hints: "wants a login", world: func(w *world) {
			w.on = func(rw http.ResponseWriter, r *http.Request) bool {
				return strings.HasSuffix(r.URL.Path, "/exec") && answerPage(rw, http.StatusOK)
			}
		}},
		{name: "no authority", args: "enable pod/a", file: func(t *testing.T, dir string) { mustRemove(t, dir) },
			world: func(w *world) { w.forget(bundlePath) }, says: "there is no authority", hints: "init-ca"},
		{name: "authority of somebody else", args: "enable pod/a", file: func(t *testing.T, dir string) { mustRemove(t, dir) },
			says: "the cluster trusts", hints: "authority"},
		{name: "foreign authority", args: "enable pod/a", world: func(w *world) {
			other := must.Get(ca.New(ca.Options{}))(w.t)
			w.publish(other)
		}, says: "foreign", hints: "authority"},
		{name: "no trust bundle", args: "rotate pod/g", world: func(w *world) { w.forget(bundlePath) }, says: "no trust bundle", hints: "init-ca"},
		{name: "damaged authority", args: "enable pod/a", says: "damaged", hints: "backup", file: func(t *testing.T, dir string) {
			must.Do(t, os.WriteFile(authority.Path(dir), []byte("nonsense"), 0o600))
		}},
		{name: "exposed authority", args: "rotate pod/g", says: "open to other users", hints: "chmod", file: func(t *testing.T, dir string) {
			must.Do(t, os.Chmod(authority.Path(dir), 0o644))
		}},
		{name: "exposed directory", args: "watch --once", says: "open to other users", hints: "chmod", file: func(t *testing.T, dir string) {
			must.Do(t, os.Chmod(dir, 0o777))
		}},
		{name: "expired authority", args: "enable pod/a", says: "not valid at this time", hints: "", world: func(w *world) {
			w.trust(ca.Options{TTL: time.Hour, Now: time.Now().Add(-48 * time.Hour)})
		}},
		{name: "expired authority when rotating", args: "rotate pod/g", says: "not valid at this time", hints: "", world: func(w *world) {
			w.trust(ca.Options{TTL: time.Hour, Now: time.Now().Add(-48 * time.Hour)})
		}},
		{name: "clock skew", args: "enable pod/a", says: "not valid at this time", hints: "clock", world: func(w *world) {
			w.trust(ca.Options{Now: time.Now().Add(48 * time.Hour)})
		}},
		{name: "clock skew in the pod", args: "enable pod/a", says: "this node's clock says", hints: "clock", world: func(w *world) {
			w.container = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1,
				Message: "the gateway's certificate is valid from 1 to 2, this node's clock says 3\nhint: set the clock of the node"}}
		}},
		{name: "image missing", args: "enable pod/a", world: waits("ErrImagePull", "failed to pull:\nnot found\x1b[2J"), says: "ErrImagePull", hints: "check --image"},
		{name: "image never pulled", args: "enable pod/a", world: waits("ErrImageNeverPull", "not present"), says: "ErrImageNeverPull", hints: "--image-pull-policy"},
		{name: "image's name", args: "enable pod/a", world: waits("InvalidImageName", "no"), says: "InvalidImageName", hints: "check --image"},
		{name: "container cannot start", args: "enable pod/a", world: waits("CreateContainerError", "no cgroup"), says: "CreateContainerError", hints: "kubectl describe pod"},
		{name: "gateway ended", args: "enable pod/a", says: "exit code 2: no cgroup", hints: "kubectl logs",
			world: func(w *world) { w.container = *gatewayDied() }},
		{name: "Pod Security", args: "enable pod/a", world: refusedBy("PATCH", "/ephemeralcontainers", 403, metav1.StatusReasonForbidden,
			`pods "a" is forbidden: violates PodSecurity "baseline:latest": privileged`), says: "violates PodSecurity", hints: "kubectl label namespace demo"},
		{name: "admission webhook", args: "enable pod/a", world: refusedBy("PATCH", "/ephemeralcontainers", 400, metav1.StatusReasonBadRequest,
			"admission webhook \"policy.example.org\" denied the request:\n\x1b[31mno privileges"), says: "denied the request", hints: "policy.example.org must make an exception"},
		{name: "admission policy", args: "enable pod/a", world: refusedBy("PATCH", "/ephemeralcontainers", 422, metav1.StatusReasonInvalid,
			`ValidatingAdmissionPolicy 'no-root' with binding 'b' denied request`), says: "denied", hints: "no-root must make an exception"},
		{name: "timeout", args: "enable pod/a --timeout=1s", world: waits("ContainerCreating", ""), says: "not ready after 1s", hints: "--timeout waits longer"},
		{name: "conflict", args: "enable pod/a", world: refusedBy("PATCH", "/ephemeralcontainers", 409, metav1.StatusReasonConflict, "the object has been modified"),
			says: "", hints: ""},
		{name: "pod gone meanwhile", args: "enable pod/a", world: refusedBy("PATCH", "/ephemeralcontainers", 404, metav1.StatusReasonNotFound, `pods "a" not found`),
			says: "not found", hints: "the pod is gone"},
		{name: "pod not there", args: "enable pod/nobody", says: "not found", hints: "-n"},
		{name: "pods not there", args: "status pod/nobody pod/none", says: "not found", hints: "-n"},
		{name: "pod not there, rotate", args: "rotate pod/nobody", says: "not found", hints: "-n"},
		{name: "namespace missing", args: "enable pod/a -n nowhere", says: "not found", hints: "-n"},
		{name: "namespace empty", args: "enable --all -n nowhere --yes", says: "no pod found", hints: "-n"},
		{name: "workload not there", args: "enable deploy/nobody", says: "not found", hints: "-n"},
		{name: "kind unknown", args: "mode bicycle/red strict", says: "resource type", hints: "kubectl api-resources"},
		{name: "kind without pods", args: "enable cm/settings", says: "", hints: ""},
		{name: "server too old", args: "enable pod/a", world: func(w *world) { w.version = "v1.32.9" }, says: "1.33 or later", hints: "--delivery=csr"},
		{name: "server too old for csr", args: "enable pod/a --delivery=csr", world: func(w *world) { w.version = "v1.24.1" }, says: "1.25 or later", hints: "upgrade"},
		{name: "server too old to watch", args: "watch --once", world: func(w *world) { w.version = "v1.24.1" }, says: "1.25 or later", hints: "upgrade"},
		{name: "version that is none", args: "enable pod/a", world: func(w *world) { w.version = "new\x1b[2J" }, says: "version", hints: ""},
		{name: "hostNetwork", args: "enable pod/a", world: podIs(func(p *corev1.Pod) { p.Spec.HostNetwork = true }), says: "hostNetwork", hints: "node level"},
		{name: "user namespace", args: "enable pod/a", world: podIs(func(p *corev1.Pod) { no := false; p.Spec.HostUsers = &no }), says: "hostUsers", hints: "remove hostUsers"},
		{name: "static pod", args: "enable pod/a", world: podIs(func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		}), says: "static pod", hints: "DaemonSet"},
		{name: "windows", args: "enable pod/a", world: podIs(func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }), says: "Windows", hints: "Linux"},
		{name: "sandbox", args: "enable pod/a", world: podIs(func(p *corev1.Pod) { class := "gvisor"; p.Spec.RuntimeClassName = &class }), says: "gVisor", hints: "runtime class"},
		{name: "pending", args: "enable pod/a", world: podIs(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), says: "does not run yet", hints: "kubectl wait"},
		{name: "finished", args: "enable pod/a", world: podIs(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), says: "has finished", hints: "name a pod that runs"},
		{name: "port in use", args: "enable pod/a", world: podIs(func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{ContainerPort: api.PeerPort}}}}
		}), says: "which the gateway needs", hints: "another port"},
		{name: "exec forbidden, mode", args: "mode pod/g strict", world: func(w *world) { w.answers = nil }, says: "not allowed to run commands", hints: "pods/exec"},
		{name: "exec forbidden, allow", args: "allow pod/g --everyone", world: func(w *world) { w.answers = nil }, says: "not allowed to run commands", hints: "pods/exec"},
		{name: "exec forbidden, rotate", args: "rotate pod/g", world: func(w *world) { w.answers = nil }, says: "not allowed to run commands", hints: "pods/exec"},
		{name: "exec forbidden, enable", args: "enable pod/g", world: func(w *world) { w.answers = nil }, says: "not allowed to run commands", hints: "pods/exec"},
		{name: "exec forbidden, disable", args: "disable pod/g", world: func(w *world) { w.answers = nil }, says: "not allowed to run commands", hints: "pods/exec"},
		{name: "exec forbidden, status", args: "status pod/g", world: func(w *world) { w.answers = nil }, says: "not allowed to run commands", hints: "pods/exec"},
		{name: "exec fails", args: "mode pod/g strict", world: func(w *world) {
			w.refuses("", "/exec", 500, metav1.StatusReasonInternalError, "error dialing backend: no route")
		}, says: "error dialing backend", hints: ""},
		{name: "gateway refuses", args: "mode pod/g strict", world: gatewaySays("error: strict mode is not possible here\nhint: upgrade the kernel\n", 1), says: "strict mode is not possible here", hints: "upgrade the kernel"},
		{name: "gateway refuses without a hint", args: "allow pod/g --everyone", world: gatewaySays("error: no\x1b[2J\n", 1), says: "no", hints: ""},
		{name: "gateway says nothing", args: "rotate pod/g", world: gatewaySays("", 137), says: "137", hints: ""},
		{name: "gateway says nonsense", args: "mode pod/g strict", world: func(w *world) {
			w.gateway = func(string, []string) (string, string, int) { return "\x1b[2Jnonsense", "", 0 }
		}, says: "", hints: ""},
		{name: "gateway not ready", args: "enable pod/g --timeout=2s", world: func(w *world) { w.answersAs("g", "starting", "no cgroup") }, says: "cannot start yet: no cgroup", hints: "adds no other container"},
		{name: "gateway of another pod", args: "enable pod/g", world: func(w *world) { w.answers["g"] = readyStatus("x") }, says: "answers for another pod", hints: ""},
		{name: "gateway died, mode", args: "mode pod/d strict", says: "does not run", hints: "enable"},
		{name: "gateway died, allow", args: "allow pod/d --everyone", says: "does not run", hints: "enable"},
		{name: "gateway died, rotate", args: "rotate pod/d", says: "does not run", hints: "enable"},
		{name: "no gateway, mode", args: "mode pod/a strict", says: "no gateway", hints: "enable"},
		{name: "no gateway, rotate", args: "rotate pod/a", says: "no gateway", hints: "enable"},
		{name: "no gateway, tail", args: "tail pod/a --no-follow", says: "no gateway", hints: "enable"},
		{name: "no gateway, packets", args: "packets pod/a", says: "no gateway", hints: "enable"},
		{name: "log forbidden", args: "tail pod/g --no-follow", says: "opening the log", hints: "can-i get pods --subresource=log -n demo"},
		{name: "no permission to ask two gateways", args: "mode pod/g pod/g2 strict --parallel=1", world: func(w *world) {
			w.pods = append(w.pods, podWithGateway("demo", "g2", gatewayRuns()))
			noRole("", "/exec")(w)
		}, says: "2 of 2 pods failed", hints: "'kubectl gateway check pod/g pod/g2 -n demo'"},
		{name: "some fail", args: "mode pod/g pod/d strict --parallel=1", says: "1 of 2 pods failed", world: func(w *world) {
			w.gateway = func(string, []string) (string, string, int) { return readyStatus("g"), "", 0 }
		}, hints: "'kubectl gateway check pod/d -n demo'", also: "^$"},
		{name: "no answer of a gateway, for programs", args: "status pod/g -o json", world: noRole("", "/exec"), says: "the gateway does not answer", hints: "can-i create pods --subresource=exec -n demo"},
		{name: "no answer of a gateway, edges for programs", args: "status pod/g --edges -o json", world: noRole("", "/exec"), says: "not allowed to run commands", hints: "can-i create pods --subresource=exec -n demo"},
		{name: "watch cannot do it all", args: "watch pod/a --once", world: noRole("PATCH", "/ephemeralcontainers"), says: "1 of 2 pods are not as they are wanted", hints: "'kubectl gateway check pod/a -n demo'", also: "pods watched"},
		{name: "pod gone meanwhile, mode", args: "mode pod/g strict", world: gone, says: "the pod is gone", hints: "the pod that replaces it"},
		{name: "pod gone meanwhile, rotate", args: "rotate pod/g", world: gone, says: "the pod is gone", hints: "the pod that replaces it"},
		{name: "pod gone meanwhile, disable", args: "disable pod/g", world: gone, says: "has ended or was replaced", hints: ""},
		{name: "pod gone meanwhile, status", args: "status pod/g", world: gone, says: "the pod is gone", hints: ""},
		{name: "pod gone meanwhile, tail", args: "tail pod/g --no-follow", world: gone, says: "", hints: ""},
		{name: "pod gone meanwhile, packets", args: "packets pod/g", world: gone, says: "the pod is gone", hints: ""},
		{name: "pod gone meanwhile, metrics", args: "metrics pod/g", world: gone, says: "the pod is gone", hints: ""},
		{name: "pod gone meanwhile, verify", args: "verify pod/g pod/a --port=80", world: gone, says: "the pod is gone", hints: ""},
		{name: "no permission by review", args: "enable pod/a", says: "you may not do this", hints: "role", world: func(w *world) {
			w.on = func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews") {
					return false
				}
				rw.Header().Set("Content-Type", "application/json")
				fmt.Fprint(rw, `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":false}}`)
				return true
			}
		}},
		{name: "no permission to patch", args: "enable pod/a", world: noRole("PATCH", "/ephemeralcontainers"), says: "cannot patch resource", hints: "can-i patch pods --subresource=ephemeralcontainers -n demo"},
		{name: "no permission for Secrets", args: "enable pod/a", world: noRole("POST", "/secrets"), says: "creating Secret", hints: "can-i create secrets -n demo"},
		{name: "no permission for nodes", args: "enable pod/a", world: noRole("GET", "/nodes"), says: "listing nodes", hints: "can-i list nodes"},
		{name: "no permission for the authority", args: "init-ca --dir=DIR/new", world: noRole("GET", "kube-gateway-trust"), says: "trust bundle", hints: "can-i get configmaps/kube-gateway-trust -n kube-system"},
		{name: "no permission to publish", args: "init-ca --dir=DIR/new", world: func(w *world) {
			w.forget(bundlePath)
			w.refuses("POST", "/configmaps", 403, metav1.StatusReasonForbidden, "")
		}, says: "trust bundle", hints: "may create configmap", also: "^authority "},
		{name: "a foreign authority is there", args: "init-ca --dir=DIR/new", says: "trusts another authority", hints: "authority"},
	}
	verbs := []struct{ name, args string }{
		{"enable", "enable pod/a"}, {"disable", "disable pod/g"}, {"mode", "mode pod/g strict"}, {"allow", "allow pod/g --everyone"},
		{"rotate", "rotate pod/g"}, {"rotate the authority", "rotate --ca --yes"}, {"status", "status"}, {"edges", "status --edges"},
		{"tail", "tail --no-follow"}, {"watch", "watch --once"}, {"version", "version"}, {"init-ca", "init-ca"}, {"workload", "status deploy/web"},
		{"packets", "packets pod/g"}, {"verify", "verify pod/g pod/a"}, {"metrics", "metrics pod/g"}, {"refresh", "refresh pod/g"},
		{"log", "log pod/g none"},
	}
	for i, v := range verbs {
		pods := strings.Contains(v.args, "pod/")
		cases = append(cases,
			errorCase{name: "no kubeconfig, " + v.name, args: v.args, config: noConfig, says: "localhost:8080", hints: "there is no kubeconfig"},
			errorCase{name: "wrong context, " + v.name, args: v.args + " --context=prod", says: `context "prod" does not exist`, hints: "get-contexts"},
			errorCase{name: "a page instead of an answer, " + v.name, args: v.args, world: page(http.StatusOK), says: "answers with a web page (200 OK), not as Kubernetes' API", hints: "wants a login"},
			errorCase{name: "unauthorized, " + v.name, args: v.args, world: always(401, metav1.StatusReasonUnauthorized, "Unauthorized"), says: "Unauthorized", hints: "log in"},
			errorCase{name: "no permission, " + v.name, args: v.args, world: always(403, metav1.StatusReasonForbidden, ""), says: `User "jane" cannot `, hints: "'kubectl auth can-i "})
		if pods {
			cases = append(cases, errorCase{name: "namespace missing, " + v.name, args: v.args + " -n nowhere", says: `not found in namespace "nowhere"`, hints: "-n"})
		}
		// What fails so is tried again for some seconds.
		switch i % 3 {
		case 0:
			cases = append(cases, errorCase{name: "server in trouble, " + v.name, args: v.args,
				world: always(500, metav1.StatusReasonInternalError, "etcdserver: no leader"), says: "etcdserver: no leader", hints: "try again"})
		case 1:
			cases = append(cases, errorCase{name: "server overloaded, " + v.name, args: v.args,
				world: always(503, metav1.StatusReasonServiceUnavailable, "apiserver is shutting down"), hints: "try again"})
		default:
			cases = append(cases, errorCase{name: "no cluster, " + v.name, args: v.args, config: config("http://127.0.0.1:1"),
				says: "no answer from http://127.0.0.1:1: connection refused", hints: "reachable"})
		}
	}
	return append(cases,
		errorCase{name: "server fails in the middle", args: "enable pod/a", world: refusedBy("POST", "/secrets", 500, metav1.StatusReasonInternalError, "etcdserver: request timed out"),
			says: "creating Secret", hints: "try again"},
		errorCase{name: "server fails at the patch", args: "enable pod/a", world: refusedBy("PATCH", "/ephemeralcontainers", 503, metav1.StatusReasonServiceUnavailable, "shutting down"),
			says: "shutting down", hints: "try again"},
		errorCase{name: "connection is cut", args: "enable pod/a", says: "the connection was cut", hints: "", world: func(w *world) {
			w.on = func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPatch {
					return false
				}
				panic(http.ErrAbortHandler)
			}
		}},
	)
}

// gone is a world where pod g has gone after it was found.
func gone(w *world) {
	looked := false
	w.on = func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/pods/g") {
			return false
		}
		w.mu.Lock()
		first := !looked
		looked = true
		w.mu.Unlock()
		if first {
			return false
		}
		w.refuse(rw, http.StatusNotFound, metav1.StatusReasonNotFound, `pods "g" not found`)
		return true
	}
}

func mustRemove(t *testing.T, dir string) {
	t.Helper()
	must.Do(t, os.RemoveAll(filepath.Clean(dir)))
}
