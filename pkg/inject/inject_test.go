package inject

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// noSecrets checks the promise of every way out but --keep-secret.
func noSecrets(t *testing.T, c *fakecluster.Cluster) {
	t.Helper()
	for _, secret := range c.Secrets() {
		t.Errorf("Secret %s is left", secret.Name)
	}
}

// expectResult checks and returns what became of a pod. An empty action or container is any.
func expectResult(t *testing.T, result Result, action Action, container string) Result {
	t.Helper()
	if result.Err != nil || action != "" && result.Action != action || container != "" && result.Container != container {
		t.Fatalf("%+v, want %s %s", result, action, container)
	}
	return result
}

// namesThePod checks that a certificate is for the pod p.
func namesThePod(t *testing.T, in *Injector, cert *x509.Certificate) {
	t.Helper()
	pod := fakecluster.NewPod("p")
	id, err := identity.FromCertificate(cert)
	if err != nil || id != installed.Identity(pod, in.Authority.TrustDomain()) || fmt.Sprint(cert.IPAddresses) != fmt.Sprint(installed.PodIPs(pod)) || len(cert.DNSNames) != 0 ||
		cert.Subject.String() != "SERIALNUMBER="+string(pod.UID) {
		t.Errorf("%v, %v, addresses %v, names %v, %v", id, err, cert.IPAddresses, cert.DNSNames, cert.Subject)
	}
}

func gatewayNames(pod *corev1.Pod) string {
	var list []string
	for _, gateway := range installed.Gateways(pod) {
		list = append(list, gateway.Name)
	}
	return strings.Join(list, " ")
}

func TestEnable(t *testing.T) {
	c, in := newCluster(t)
	var secret corev1.Secret
	c.Kubelet = func(pod *corev1.Pod, container *corev1.EphemeralContainer) corev1.ContainerState {
		// What a kubelet does with the container's environment.
		for _, s := range c.Secrets() {
			if container.Env[1].ValueFrom.SecretKeyRef.Name == s.Name {
				secret = s
			}
		}
		return fakecluster.Running(pod, container)
	}
	result := in.Enable(t.Context(), c.Pod("p"))
	if result.Err != nil || result.Action != Enabled || result.Container != "kube-gateway" || len(result.Warnings) != 0 {
		t.Fatalf("%+v", result)
	}
	if result.Status == nil || result.Status.State != api.Ready {
		t.Errorf("status %+v", result.Status)
	}
	if len(secret.Data["tls.crt"]) == 0 || !bytes.Contains(secret.Data["tls.key"], []byte("PRIVATE KEY")) || !bytes.Equal(secret.Data["ca.crt"], in.Authority.Bundle()) {
		t.Error("the container did not find what it needs in its Secret")
	}
	if !trusted(t, secret.Data["tls.crt"], secret.Data["ca.crt"]) {
		t.Fatal("the certificate is not one of the bundle's authority")
	}
	namesThePod(t, in, fakegateway.Certificates(secret.Data["tls.crt"])[0])
	noSecrets(t, c)

	again := in.Enable(t.Context(), c.Pod("p"))
	if again.Err != nil || again.Action != Unchanged || again.Container != "kube-gateway" || len(again.Warnings) != 0 {
		t.Errorf("the second time: %+v", again)
	}
	expect.Equal(t, "patches", 1, len(c.Added()))
}

func TestEnableSaysWhichSettingsItLeaves(t *testing.T) {
	c, in := newCluster(t)
	must.Do(t, in.Enable(t.Context(), c.Pod("p")).Err)
	in.Options.Mode, in.Options.OnFailure = api.Strict, api.FailClosed
	in.Options.Wire, in.Options.BlockUDP, in.Options.Rules.Allow = api.WirePort, true, []string{"ns/a/sa/b", "ns/c/sa/*"}
	in.Options.Named.PlaintextFrom = []api.Source{{From: netip.MustParsePrefix("192.0.2.0/24")}}
	in.Survey = &survey.Survey{Found: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	warns := func(want ...string) {
		t.Helper()
		result := in.Enable(t.Context(), c.Pod("p"))
		if result.Action != Unchanged || len(result.Warnings) != len(want) {
			t.Errorf("%s: %q", result.Action, result.Warnings)
		}
		for _, text := range want {
			if !strings.Contains(strings.Join(result.Warnings, "\n"), text) {
				t.Errorf("%q is not among %q", text, result.Warnings)
			}
		}
	}
	others := []string{"stays with on-failure open", "stays with wire auto", "UDP", "goes on to capture the destinations, and to accept plaintext"}
	warns(append([]string{
		"it stays in mode permissive; to change that: kubectl gateway mode pod/p -n shop strict",
		"its identity rules stay 'ns/shop/sa/*'; to change that: kubectl gateway allow pod/p -n shop 'ns/a/sa/b' 'ns/c/sa/*'",
	}, others...)...)

	// What was changed since counts, not what the gateway was started with.
	in.Gateways = gateways(but(readyWith(in.Authority), func(status *api.Status) { status.Mode, status.Allow = api.Strict, in.Options.Rules.Allow }))
	warns(others...)
}

func TestEnableSaysThatACertificateDoesNotServe(t *testing.T) {
	c, in := newCluster(t)
	must.Do(t, in.Enable(t.Context(), c.Pod("p")).Err)
	for want, change := range map[string]func(*api.Status){
		"its certificate ended on":     func(s *api.Status) { s.Cert.NotAfter = time.Now().Add(-time.Second) },
		"does not trust the authority": func(s *api.Status) { s.Cert.Authorities = []string{"00ff"} },
	} {
		in.Gateways = gateways(but(readyWith(in.Authority), change))
		result := in.Enable(t.Context(), c.Pod("p"))
		if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], want) {
			t.Errorf("%q, want %q", result.Warnings, want)
		}
	}
}

func TestKeepSecret(t *testing.T) {
	c, in := newCluster(t)
	in.Options.KeepSecret = true
	must.Do(t, in.Enable(t.Context(), c.Pod("p")).Err)
	expect.Equal(t, "Secrets", 1, len(c.Secrets()))
	// The next one, without --keep-secret, has nothing to do with it.
	in.Options.KeepSecret = false
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || len(c.Secrets()) != 1 {
		t.Errorf("%v, %d Secrets", result.Err, len(c.Secrets()))
	}
}

func TestFailedEnableLeavesNothingAndCanBeRetried(t *testing.T) {
	for name, test := range map[string]struct {
		kubelet     corev1.ContainerState
		beforePatch func(dryRun bool) error
		status      says
		want        string
		next        string
	}{
		"image":   {kubelet: fakecluster.Waiting("ErrImagePull", "no such image"), want: "no such image", next: "kube-gateway kube-gateway-2"},
		"crash":   {kubelet: fakecluster.Terminated(1, "kernel too old"), want: "kernel too old", next: "kube-gateway kube-gateway-2"},
		"config":  {kubelet: fakecluster.Waiting("CreateContainerConfigError", "bad user"), want: "bad user", next: "kube-gateway kube-gateway-2"},
		"refused": {beforePatch: func(bool) error { return errors.New(`violates PodSecurity "baseline:latest"`) }, want: "violates PodSecurity", next: "kube-gateway"},
		"refused for real": {beforePatch: func(dryRun bool) error {
			if dryRun {
				return nil
			}
			return errors.New("the webhook has changed its mind")
		}, want: "changed its mind", next: "kube-gateway"},
		"not ready": {kubelet: fakecluster.Running(nil, nil), status: func(_ context.Context, pod, _ string) (*api.Status, error) {
			return &api.Status{State: api.Starting, Reason: "waiting for BPF", Pod: api.PodRef{UID: "uid-" + pod}}, nil
		}, want: "waiting for BPF", next: "kube-gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			c, in := newCluster(t)
			c.Kubelet = func(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState { return test.kubelet }
			c.BeforePatch = test.beforePatch
			if test.status != nil {
				in.Gateways = gateways(test.status)
			}
			result := in.Enable(t.Context(), c.Pod("p"))
			expect.Equal(t, "action", Failed, result.Action)
			expect.Refusal(t, "the error", result.Err, nil, test.want, "")
			if name == "refused" && c.Did("create", "secrets") {
				t.Error("a Secret was created before the refusal")
			}
			noSecrets(t, c)

			c.Kubelet, c.BeforePatch, in.Gateways = fakecluster.Running, nil, gateways(ready)
			if again := in.Enable(t.Context(), c.Pod("p")); again.Err != nil {
				t.Errorf("the retry: %v", again.Err)
			}
			expect.Equal(t, "gateways after the retry", test.next, gatewayNames(c.Pod("p")))
			noSecrets(t, c)
		})
	}
}

func TestConflictWithTheKubeletIsNoFailure(t *testing.T) {
	c, in := newCluster(t)
	times := 0
	c.BeforePatch = func(bool) error {
		if times++; times%2 == 1 {
			c.Update(c.Pod("p"))
		}
		return nil
	}
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || len(c.Added()) != 1 {
		t.Errorf("%d patches, %v", len(c.Added()), result.Err)
	}
	noSecrets(t, c)
}

func TestPodReplacedBeforeThePatch(t *testing.T) {
	c, in := newCluster(t)
	c.BeforePatch = func(bool) error {
		pod := c.Pod("p")
		pod.UID = types.UID("another")
		c.Update(pod)
		return nil
	}
	if result := in.Enable(t.Context(), c.Pod("p")); !errors.Is(result.Err, installed.ErrReplaced) {
		t.Error(result.Err)
	}
	noSecrets(t, c)
}

func TestParallelEnablesOfOnePodGiveOneGateway(t *testing.T) {
	c := fakecluster.New(t, fakecluster.NewPod("p"))
	const plugins = 8
	var started, done sync.WaitGroup
	started.Add(plugins)
	results := make([]Result, plugins)
	for i := range plugins {
		done.Go(func() {
			in, pod := newInjector(t, c), c.Pod("p")
			// All of them have seen the pod without a gateway.
			started.Done()
			started.Wait()
			results[i] = in.Enable(t.Context(), pod)
		})
	}
	done.Wait()
	enabled := 0
	for _, result := range results {
		if result.Err != nil {
			t.Error(result.Err)
		}
		if result.Action == Enabled {
			enabled++
		}
	}
	if enabled != 1 || gatewayNames(c.Pod("p")) != "kube-gateway" {
		t.Errorf("%d say that they enabled it; gateways: %s", enabled, gatewayNames(c.Pod("p")))
	}
	noSecrets(t, c)
}

// enabling enables the pod p, whose gateway is on its way.
func enabling(t *testing.T, c *fakecluster.Cluster, in *Injector) <-chan Result {
	done := make(chan Result, 1)
	go func() { done <- in.Enable(t.Context(), c.Pod("p")) }()
	c.AwaitWatch()
	return done
}

func TestGatewayOnItsWayIsWaitedFor(t *testing.T) {
	c, in, _ := started(t, fakecluster.Waiting("ContainerCreating", ""))
	done := enabling(t, c, in)
	c.SetState("p", "kube-gateway", fakecluster.Running(nil, nil))
	expectResult(t, expect.Within(t, done), Unchanged, "")
}

func TestGatewayThatFailsOnItsWayIsFollowedByAnother(t *testing.T) {
	c, in, _ := started(t, fakecluster.Waiting("ContainerCreating", ""))
	done := enabling(t, c, in)
	c.SetState("p", "kube-gateway", fakecluster.Terminated(1, "gone"))
	expectResult(t, expect.Within(t, done), Enabled, "kube-gateway-2")
	noSecrets(t, c)
}

func TestGatewayWhoseSecretIsGoneIsNotWaitedFor(t *testing.T) {
	_, in, pod := started(t, fakecluster.Waiting("CreateContainerConfigError", `secret "some-secret" not found`))
	expectResult(t, in.Enable(t.Context(), pod), "", "kube-gateway-2")
}

func TestEnableRemovesWhatAKilledPluginLeft(t *testing.T) {
	c, in := newCluster(t)
	killed := in.newSecret(c.Pod("p"), "kube-gateway-p-killed", "kube-gateway", []byte("cert"), []byte("key"))
	other := in.newSecret(fakecluster.NewPod("q"), "kube-gateway-q-other", "kube-gateway", []byte("cert"), []byte("key"))
	for _, secret := range []*corev1.Secret{killed, other} {
		must.Do(t, c.Tracker().Add(secret))
	}
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || len(result.Warnings) != 0 {
		t.Fatalf("%+v", result)
	}
	if left := c.Secrets(); len(left) != 1 || left[0].Name != other.Name {
		t.Errorf("left: %v", left)
	}
}

func TestSecretThatCannotBeDeletedIsTold(t *testing.T) {
	c, in := newCluster(t)
	c.PrependReactor("delete", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("the server is tired")
	})
	result := in.Enable(t.Context(), c.Pod("p"))
	if text := strings.Join(result.Warnings, "\n"); result.Err != nil || !strings.Contains(text, "private key") || !strings.Contains(text, "kubectl delete secret") {
		t.Errorf("%v: %s", result.Err, text)
	}
}

func TestSecretOfUncertainFateIsDeleted(t *testing.T) {
	c, in := newCluster(t)
	c.PrependReactor("create", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		// The server got the request, and the answer was lost.
		if err := c.Tracker().Add(action.(clienttesting.CreateAction).GetObject()); err != nil {
			t.Error(err)
		}
		return true, nil, errors.New("connection reset")
	})
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err == nil {
		t.Error("no error")
	}
	noSecrets(t, c)
}

func TestInterrupt(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	c, in := newCluster(t)
	in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
		if len(c.Secrets()) != 1 {
			t.Error("no Secret while the gateway starts")
		}
		interrupt()
		return silent(ctx, pod, container)
	})
	result := in.Enable(ctx, c.Pod("p"))
	if !errors.Is(result.Err, errInterrupted) || !strings.Contains(result.Err.Error(), "container kube-gateway was added and stays") {
		t.Error(result.Err)
	}
	noSecrets(t, c)
}

// TestSecretIsDeletedAfterAnInterrupt needs a client that heeds its context,
// which the fake one does not.
func TestSecretIsDeletedAfterAnInterrupt(t *testing.T) {
	requests := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r.Method + " " + r.URL.Path
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
	}))
	defer server.Close()
	client := must.Get(kubernetes.NewForConfig(&rest.Config{Host: server.URL}))(t)
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	must.Do(t, installed.DeleteSecret(ctx, client, "shop", "s"))
	expect.Equal(t, "request", "DELETE /api/v1/namespaces/shop/secrets/s", expect.Within(t, requests))
}

func TestTimeoutEndsInTheUsersTerms(t *testing.T) {
	c, in := newCluster(t)
	c.Kubelet = func(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState {
		return fakecluster.Waiting("ContainerCreating", "")
	}
	in.Options.Timeout = 300 * time.Millisecond
	result := in.Enable(t.Context(), c.Pod("p"))
	expect.Error(t, result.Err, "300ms")
	if !errors.Is(result.Err, errTimeout) {
		t.Error("is no timeout")
	}
	noSecrets(t, c)
}

func TestDryRun(t *testing.T) {
	for _, dryRun := range []installed.DryRun{installed.DryRunClient, installed.DryRunServer} {
		c, in := newCluster(t)
		// The fake server stores what it should only try.
		c.PrependReactor("create", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if len(action.(clienttesting.CreateActionImpl).CreateOptions.DryRun) == 0 {
				t.Error("a Secret was created")
			}
			secret := action.(clienttesting.CreateAction).GetObject().(*corev1.Secret)
			if trusted(t, secret.Data["tls.crt"], secret.Data["ca.crt"]) {
				t.Error("a trusted certificate was sent for a dry run")
			}
			return true, secret, nil
		})
		in.Options.DryRun = dryRun
		result := in.Enable(t.Context(), c.Pod("p"))
		if result.Err != nil || result.Action != Enabled || result.Patch == nil || result.Secret == nil {
			t.Fatalf("%s: %+v", dryRun, result)
		}
		if text := fmt.Sprint(result.Secret.StringData); len(result.Secret.Data) != 0 || strings.Contains(text, "PRIVATE") || result.Secret.StringData["tls.key"] != "" {
			t.Errorf("%s: the Secret holds a key", dryRun)
		}
		if tried := c.Did("create", "secrets") && c.Did("patch", "pods"); tried != (dryRun == installed.DryRunServer) {
			t.Errorf("%s: tried by the server: %v", dryRun, tried)
		}
		if len(c.Added()) != 0 || gatewayNames(c.Pod("p")) != "" {
			t.Errorf("%s changed the pod", dryRun)
		}
		noSecrets(t, c)
	}
}

func trusted(t *testing.T, certPEM, bundle []byte) bool {
	t.Helper()
	chain := fakegateway.Certificates(certPEM)
	if len(chain) == 0 {
		t.Error("no certificate was sent")
	}
	return fakegateway.Root(chain, fakegateway.Certificates(bundle), time.Now()) != nil
}

func TestForbiddenSecretHasAHint(t *testing.T) {
	c, in := newCluster(t)
	c.Forbid("create", "secrets")
	expect.Error(t, in.Enable(t.Context(), c.Pod("p")).Err, "forbidden")
}

// TestLostAnswers has the server carry out what it is asked for, with the answer
// lost on its way: what is then sent again finds it done.
func TestLostAnswers(t *testing.T) {
	c, in := newCluster(t)
	secrets, patches := 0, 0
	c.PrependReactor("create", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if secrets++; secrets > 1 {
			return false, nil, nil
		}
		if err := c.Tracker().Add(action.(clienttesting.CreateAction).GetObject()); err != nil {
			t.Error(err)
		}
		return true, nil, apierrors.NewInternalError(errors.New("lost"))
	})
	c.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		dryRun := len(action.(clienttesting.PatchActionImpl).PatchOptions.DryRun) > 0
		if handled, pod, err := c.Patch(action); dryRun || err != nil {
			return handled, pod, err
		}
		patches++
		return c.Patch(action)
	})
	expectResult(t, in.Enable(t.Context(), c.Pod("p")), Enabled, "kube-gateway")
	if n := len(c.Pod("p").Spec.EphemeralContainers); n != 1 || patches != 1 || secrets != 2 {
		t.Errorf("%d gateways by %d patches, %d creations of Secrets", n, patches, secrets)
	}
	noSecrets(t, c)
}

// TestEnableWithMetrics: the address reaches the gateway, and one that cannot be is an
// error before anything is made.
func TestEnableWithMetrics(t *testing.T) {
	c, in := newCluster(t)
	in.Options.MetricsAddr = ":18445"
	expectResult(t, in.Enable(t.Context(), c.Pod("p")), Enabled, "")
	if config, err := installed.ConfigOf(c.Pod("p"), installed.ContainerName); err != nil || config.MetricsAddr != ":18445" {
		t.Errorf("%+v, %v", config, err)
	}
	// Of a gateway that runs it is said that it does otherwise.
	in.Options.MetricsAddr = ""
	if result := in.Enable(t.Context(), c.Pod("p")); result.Action != Unchanged || !strings.Contains(strings.Join(result.Warnings, "\n"), "serve metrics at :18445; --replace changes that") {
		t.Errorf("%+v", result)
	}
}

func TestMetricsThatCannotBe(t *testing.T) {
	for name, test := range map[string]struct {
		addr string
		port corev1.ContainerPort
		want string
	}{
		"free":             {":18445", corev1.ContainerPort{ContainerPort: 8080}, ""},
		"another protocol": {":18445", corev1.ContainerPort{ContainerPort: 18445, Protocol: corev1.ProtocolUDP}, ""},
		"taken":            {":8080", corev1.ContainerPort{ContainerPort: 8080}, "container app listens on port 8080"},
		"taken by name":    {"127.0.0.1:8080", corev1.ContainerPort{ContainerPort: 8080, Protocol: corev1.ProtocolTCP}, "container app listens on port 8080"},
		"foreign":          {"192.0.2.1:18445", corev1.ContainerPort{ContainerPort: 8080}, "192.0.2.1, which is not an address of the pod"},
		"nonsense":         {"18445", corev1.ContainerPort{ContainerPort: 8080}, "is not an address with a port"},
		"not wanted":       {"", corev1.ContainerPort{ContainerPort: 18445}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pod := fakecluster.NewPod("p")
			pod.Spec.Containers[0].Ports = []corev1.ContainerPort{test.port}
			c := fakecluster.New(t, pod)
			in := newInjector(t, c)
			in.Options.MetricsAddr = test.addr
			result := in.Enable(t.Context(), c.Pod("p"))
			expect.Error(t, result.Err, test.want)
			if test.want != "" && (len(c.Pod("p").Spec.EphemeralContainers) != 0 || result.Action != Failed) {
				t.Errorf("%+v", result)
			}
		})
	}
}

func TestCheckServer(t *testing.T) {
	for delivery, versions := range map[Delivery]map[string]string{
		DeliverySecret: {
			"v1.33.0": "", "v1.37.2": "", "v1.33.4-eks-1234567": "", "v1.34.1+k3s1": "", "v2.0.0": "",
			"v1.32.9": "1.33 or later", "v1.9.0": "1.33 or later", "v1.32.5-gke.100": "1.33 or later", "unknown": "reading the server's version",
		},
		DeliveryCSR: {"v1.25.0": "", "v1.32.9": "", "v1.24.17": "1.25 or later"},
	} {
		for text, want := range versions {
			c := fakecluster.New(t)
			c.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: text}
			expect.Error(t, CheckServer(t.Context(), c.Discovery(), delivery), want)
		}
	}
}

func TestPatchesAsTheyAreSent(t *testing.T) {
	in := newInjector(t, fakecluster.New(t))
	for file, secret := range map[string]string{"patch.yaml": "kube-gateway-web-0-abc", "patch-csr.yaml": ""} {
		pod := fakecluster.NewPod("web-0")
		container := must.Get(in.container("kube-gateway", secret, in.configFor(pod)))(t)
		golden.CheckYAML(t, file, installed.NewPatch(pod, container))
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
		config := must.Get(installed.ConfigOf(pod, "kube-gateway"))(t)
		want := in.configFor(pod)
		want.Number = 1
		expect.Equal(t, "the configuration, by way of the pod", want, config)
	}
}

func TestSecretAsItIsSent(t *testing.T) {
	in := newInjector(t, fakecluster.New(t))
	secret := in.newSecret(fakecluster.NewPod("web-0"), "kube-gateway-web-0-abc", "kube-gateway", []byte("the certificate"), []byte("the key"))
	if !bytes.Equal(secret.Data["ca.crt"], in.Authority.Bundle()) {
		t.Error("the trust bundle is another one")
	}
	secret.Data["ca.crt"] = []byte("the trust bundle")
	golden.CheckYAML(t, "secret.yaml", secret)
}

func TestSecretNames(t *testing.T) {
	seen := map[string]bool{}
	for _, pod := range []string{"web-0", "a", strings.Repeat("a", 253), strings.Repeat("a.", 126) + "a", strings.Repeat("a-", 126) + "a"} {
		for range 20 {
			name := secretName(pod)
			if problems := validation.IsDNS1123Subdomain(name); len(problems) != 0 {
				t.Errorf("secretName(%q) = %q: %v", pod, name, problems)
			}
			if seen[name] {
				t.Errorf("%q comes twice", name)
			}
			seen[name] = true
		}
	}
	if name := secretName("web-0"); !strings.HasPrefix(name, "kube-gateway-web-0-") {
		t.Error(name)
	}
}

func TestNothingToCaptureIsRefused(t *testing.T) {
	in := newInjector(t, fakecluster.New(t))
	in.Survey = &survey.Survey{}
	pod := fakecluster.NewPod("web-0")
	if _, err := in.container("kube-gateway", "s", in.configFor(pod)); err == nil {
		t.Error("a gateway that captures nothing was described")
	}
}

// TestTooMuchConfigurationIsRefused: a container whose program cannot be started stays in the pod.
func TestTooMuchConfigurationIsRefused(t *testing.T) {
	in := newInjector(t, fakecluster.New(t))
	config := in.configFor(fakecluster.NewPod("web-0"))
	container := must.Get(in.container("kube-gateway", "", config))(t)
	config.TrustDomain += strings.Repeat("x", api.MaxConfig-len(container.Env[0].Value))
	container = must.Get(in.container("kube-gateway", "", config))(t)
	start := exec.CommandContext(t.Context(), "true")
	start.Env = []string{api.EnvConfig + "=" + container.Env[0].Value}
	if err := start.Run(); err != nil {
		t.Errorf("a program with the longest configuration: %v", err)
	}
	config.TrustDomain += "x"
	if _, err := in.container("kube-gateway", "", config); err == nil || api.Hint(err) == "" {
		t.Errorf("a configuration that is too long: %v", err)
	}
}
