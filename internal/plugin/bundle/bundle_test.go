package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/check"
)

const (
	nodeName = "ip-10-0-7-9.zone.example"
	pem      = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIBgatewaykeymaterial\n-----END EC PRIVATE KEY-----"
	config   = `{"version":1,"pod":{"namespace":"shop","name":"web","uid":"uid-web"},"podIPs":["10.244.1.7","fd00:1::7"],"trustDomain":"td","mode":"strict","onFailure":"open","ranges":["10.244.0.0/16"]}`
)

// secrets are what nothing of must be in an archive.
func secrets() []string {
	return []string{"hunter2", "gatewaykeymaterial", "PRIVATE KEY", "c2VjcmV0LWtleQ", "secret-key", "s3cr3t", "abcdefgh.token", "eyJhbGciOiJSUzI1NiJ9", "pa55w0rd", "last words of an application"}
}

// newCluster returns a cluster in which secrets are wherever the API has room for them.
func newCluster(t *testing.T) (*fakecluster.Cluster, []corev1.Pod) {
	t.Helper()
	pod := fakecluster.NewPod("web")
	pod.Spec.NodeName = nodeName
	pod.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "hunter2", "kube-gateway.io": "hunter2"}
	pod.Spec.Containers = []corev1.Container{{Name: "app", Image: "app:1", Command: []string{"app", "--password=hunter2"}, Args: []string{"hunter2"},
		Env:           []corev1.EnvVar{{Name: "PASSWORD", Value: "hunter2"}},
		LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{HTTPHeaders: []corev1.HTTPHeader{{Name: "Authorization", Value: "hunter2"}}}}},
		Ports:         []corev1.ContainerPort{{ContainerPort: 8080}},
	}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{VolumeAttributes: map[string]string{"key": "hunter2"}}}}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", LastTerminationState: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "last words of an application"}}}}
	pod.Status.PodIP, pod.Status.PodIPs = "10.244.1.7", []corev1.PodIP{{IP: "10.244.1.7"}, {IP: "fd00:1::7"}}
	pod.Status.HostIP = "10.0.7.9"
	gateway := fakecluster.AddGateway(pod, config, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	gateway.Env = append(gateway.Env, corev1.EnvVar{Name: api.EnvKey, Value: pem})
	event := func(name, message string) *corev1.Event {
		return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: name},
			InvolvedObject: corev1.ObjectReference{UID: pod.UID}, Type: "Warning", Reason: "Failed", Message: message}
	}
	other := event("other", "about hunter2")
	other.InvolvedObject.UID = "uid-other"
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Annotations: map[string]string{"x": "hunter2"}},
		Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24"}},
		Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KernelVersion: "6.12.9"}, Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "10.0.7.9"}, {Type: corev1.NodeHostName, Address: nodeName}}}}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: "kube-gateway-web"}, Data: map[string][]byte{"tls.key": []byte("secret-key")}}
	c := fakecluster.New(t, pod, node, secret, other, event("key", "key: "+pem), event("token", "Authorization: Bearer abcdefgh.token"),
		event("jwt", "got eyJhbGciOiJSUzI1NiJ9.e30.x"), event("url", "pulling https://user:s3cr3t@registry.example/x from 10.0.7.9:5000 failed"),
		event("password", `login with {"password": "pa55w0rd"} failed`), event("secret", "CLIENT_SECRET=pa55w0rd is wrong"), event("v6", "probe http://[fd00:1::7]:8080/ failed on "+nodeName))
	return c, []corev1.Pod{*pod}
}

func newCollector(c *fakecluster.Cluster, o Options) *Collector {
	o.LogBytes, o.Parallel, o.Timeout = 1<<20, 4, time.Minute
	now := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	gateways := fakegateway.Gateways(func(_ context.Context, call *fakegateway.Call) (any, error) {
		pod := api.PodRef{Namespace: "shop", Name: "web", UID: "uid-web"}
		switch call.Op() {
		case "status":
			return &api.Status{State: api.Ready, Version: "v1", Pod: pod, Mode: api.Strict, Time: now, PodIPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")},
				Reason: "-----BEGIN PRIVATE KEY-----\ngatewaykeymaterial"}, nil
		case "edges":
			return &api.Edges{Pod: pod, Time: now, Edges: []api.Edge{{Direction: api.Outbound, Source: netip.MustParseAddr("10.244.1.7"),
				Destination: netip.MustParseAddrPort("192.0.2.77:443"), Verdict: api.EdgePlaintext, Wire: api.WireNone, LastSeen: now}}}, nil
		case "metrics":
			return &api.Metrics{Families: []api.MetricFamily{{Name: "kube_gateway_up", Type: "gauge", Samples: []api.MetricSample{{Value: 1}}}}}, nil
		}
		return nil, errors.New("unexpected")
	})
	return &Collector{
		Kube: c, Gateways: gateways.Client(c), Options: o, Now: func() time.Time { return now }, Progress: func(string) {},
		Versions: func(context.Context) (any, error) { return map[string]string{"client": "v1"}, nil },
		Check: func(context.Context) (*check.Report, error) {
			return &check.Report{Checks: []check.Item{{ID: "client-kubeconfig", Detail: `server https://api.corp.example:6443, and 127.0.0.1`}}}, nil
		},
		Exposition: func(*api.Metrics) string { return `up{address="10.244.1.7"} 1` + "\n" },
		Hosts:      []string{"api.corp.example"},
	}
}

// unpack returns the files of an archive, and their names in its order.
func unpack(t *testing.T, archive []byte) (files map[string]string, names []string) {
	t.Helper()
	z := must.Get(gzip.NewReader(bytes.NewReader(archive)))(t)
	files = map[string]string{}
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, names
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil || header.Mode != 0o600 {
			t.Fatalf("%s has mode %o: %v", header.Name, header.Mode, err)
		}
		name := strings.TrimPrefix(header.Name, root+"/")
		files[name], names = string(text), append(names, name)
	}
}

func write(t *testing.T, c *Collector, pods []corev1.Pod) (*Summary, []byte) {
	t.Helper()
	var out bytes.Buffer
	summary := must.Get(c.Write(t.Context(), &out, pods))(t)
	return summary, out.Bytes()
}

// TestBundle: everything is there, in the same order with the same bytes, and nothing secret.
func TestBundle(t *testing.T) {
	cluster, pods := newCluster(t)
	summary, archive := write(t, newCollector(cluster, Options{}), pods)
	expect.Equal(t, "summary", &Summary{Pods: 1, Missing: []Missing{}}, summary)
	files, names := unpack(t, archive)
	want := []string{"versions.json", "check.json", "nodes/" + nodeName + ".json", "status.json", "edges.json",
		"pods/shop/web/pod.json", "pods/shop/web/events.json", "pods/shop/web/metrics.prom", "pods/shop/web/logs/kube-gateway.log", "summary.json", "README"}
	expect.Equal(t, "files", want, names)
	for name, text := range files {
		for _, secret := range secrets() {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %q:\n%s", name, secret, text)
			}
		}
		if strings.HasSuffix(name, ".json") && !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON:\n%s", name, text)
		}
	}
	for name, word := range map[string]string{"pods/shop/web/pod.json": `"10.244.1.7"`, "status.json": `"ready"`, "edges.json": "192.0.2.77",
		"nodes/" + nodeName + ".json": "6.12.9", "pods/shop/web/events.json": "pulling https://[removed]@registry.example/x", "pods/shop/web/logs/kube-gateway.log": "fake logs"} {
		if !strings.Contains(files[name], word) {
			t.Errorf("%s lacks %q:\n%s", name, word, files[name])
		}
	}
	for _, action := range cluster.Actions() {
		if action.GetResource().Resource == "secrets" || !slices.Contains([]string{"get", "list"}, action.GetVerb()) {
			t.Errorf("the cluster is asked to %s %s", action.GetVerb(), action.GetResource().Resource)
		}
	}
	if _, again := write(t, newCollector(cluster, Options{}), pods); !bytes.Equal(archive, again) {
		t.Error("the same again makes another archive")
	}
}

// TestMaskedBundle: no address is left, and the same one is recognised in all files.
func TestMaskedBundle(t *testing.T) {
	cluster, pods := newCluster(t)
	_, archive := write(t, newCollector(cluster, Options{MaskAddresses: true}), pods)
	files, names := unpack(t, archive)
	four := regexp.MustCompile(`\d{1,3}[.-]\d{1,3}[.-]\d{1,3}[.-]\d{1,3}`)
	for name, text := range files {
		text = name + "\n" + text
		for _, found := range four.FindAllString(text, -1) {
			if ip, err := netip.ParseAddr(strings.ReplaceAll(found, "-", ".")); err == nil && !ip.IsLoopback() {
				t.Errorf("%s has the address %s:\n%s", name, found, text)
			}
		}
		for _, word := range []string{"fd00", "zone.example", "corp.example", "10-0-7-9"} {
			if strings.Contains(text, word) {
				t.Errorf("%s has %q:\n%s", name, word, text)
			}
		}
	}
	own := regexp.MustCompile(`"podIP": "(ipv4-\d+)"`).FindStringSubmatch(files["pods/shop/web/pod.json"])
	if own == nil {
		t.Fatalf("the pod's address has no pseudonym:\n%s", files["pods/shop/web/pod.json"])
	}
	for _, name := range []string{"status.json", "edges.json", "pods/shop/web/metrics.prom"} {
		if !strings.Contains(files[name], `"`+own[1]+`"`) {
			t.Errorf("%s does not have the pod's address as %s:\n%s", name, own[1], files[name])
		}
	}
	if !slices.Contains(names, "nodes/node-1.json") || !strings.Contains(files["check.json"], "https://host-1:6443, and 127.0.0.1") {
		t.Errorf("files %q, and check.json has\n%s", names, files["check.json"])
	}
}

// TestMissingParts: what may not be read is noted, and the rest is there.
func TestMissingParts(t *testing.T) {
	cluster, pods := newCluster(t)
	for _, resource := range []string{"nodes", "events"} {
		cluster.PrependReactor("*", resource, func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "x", errors.New("no right to 10.0.7.9, password=pa55w0rd"))
		})
	}
	c := newCollector(cluster, Options{MaskAddresses: true})
	c.Versions = func(ctx context.Context) (any, error) { <-ctx.Done(); return nil, ctx.Err() }
	c.Options.Timeout = 200 * time.Millisecond
	summary, archive := write(t, c, pods)
	files, _ := unpack(t, archive)
	var missing []string
	for _, m := range summary.Missing {
		missing = append(missing, m.File)
		if text := files[m.File+".error"]; text != m.Why+"\n" || m.Why == "" || strings.Contains(m.Why, "pa55w0rd") {
			t.Errorf("%s.error has %q, the summary %q", m.File, text, m.Why)
		}
	}
	expect.Equal(t, "missing", []string{"versions.json", "nodes/node-1.json", "pods/shop/web/events.json"}, missing)
	if !strings.Contains(files["summary.json"], "no right to ipv4-") || files["status.json"] == "" {
		t.Errorf("the summary is\n%s", files["summary.json"])
	}
}

// TestInterrupted: an archive that is not complete is an error.
func TestInterrupted(t *testing.T) {
	cluster, pods := newCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	c := newCollector(cluster, Options{})
	c.Progress = func(text string) {
		if strings.Contains(text, "edges") {
			cancel()
		}
	}
	if _, err := c.Write(ctx, io.Discard, pods); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestMask(t *testing.T) {
	m := newMask()
	m.name("node", "worker", "worker-2", "10.1.1.1")
	for in, want := range map[string]string{
		"":                                 "",
		"to 10.1.1.1:80 and 10.1.1.1.":     "to A:80 and A.",
		"10.1.1.0/24":                      "10.1.1.0/24",
		"bad:10.1.1.1":                     "bad:A",
		"[fd00::1]:443 fd00::1%eth0":       "[B]:443 B%eth0",
		"::ffff:10.1.1.1":                  "A",
		"fd00:0::1":                        "B",
		"127.0.0.1 ::1 0.0.0.0 ::":         "127.0.0.1 ::1 0.0.0.0 ::",
		"12:30:05 2030-01-02T03:04:05.123": "12:30:05 2030-01-02T03:04:05.123",
		"v1.27.3 6.12.9-4 1.2.3":           "v1.27.3 6.12.9-4 1.2.3",
		"ip-10-1-1-1.internal 10-1-1-1":    "ip-A.internal A",
		"2026-11-28-17":                    "2026-11-28-17",
		"node worker, worker-2, workers":   "node node-1, node-2, workers",
	} {
		want = strings.NewReplacer("10.1.1.0/24", m.pseudonym(netip.MustParseAddr("10.1.1.0"))+"/24",
			"A", m.pseudonym(netip.MustParseAddr("10.1.1.1")), "B", m.pseudonym(netip.MustParseAddr("fd00::1"))).Replace(want)
		expect.Equal(t, in, want, string(m.apply([]byte(in))))
	}
}

func TestNewest(t *testing.T) {
	var all strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&all, "line %d\n", i)
	}
	for _, limit := range []int{100, 50_000, 1 << 20} {
		got, err := newest(strings.NewReader(all.String()), limit)
		if err != nil || len(got) > limit || !strings.HasSuffix(all.String(), string(got)) || !bytes.HasPrefix(got, []byte("line ")) || len(got) < min(limit, all.Len())-20 {
			t.Errorf("limit %d: %d bytes, %.20q, %v", limit, len(got), got, err)
		}
	}
}
