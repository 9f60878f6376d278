package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// enableFlags parses flags as the command does, up to what complete makes of them.
func enableFlags(t *testing.T, args ...string) (inject.Options, error) {
	t.Helper()
	var o enableOptions
	cmd := newEnableCommand(&app{IOStreams: genericiooptions.NewTestIOStreamsDiscard()}, &o)
	err := cmd.ParseFlags(args)
	return o.complete(), err
}

func TestEnableFlags(t *testing.T) {
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	for line, change := range map[string]func(*inject.Options){
		"": func(*inject.Options) {},
		"--mode=strict --cert-ttl=12h --image=x:1 --image-pull-policy=Never --dry-run=server --timeout=5s --keep-secret": func(o *inject.Options) {
			o.Mode, o.TTL, o.Image, o.PullPolicy = api.Strict, 12*time.Hour, "x:1", corev1.PullNever
			o.DryRun, o.Timeout, o.KeepSecret = installed.DryRunServer, 5*time.Second, true
		},
		"--capture-cidr=10.1.2.3/8,fd00::/8 --capture-cidr=10.9.9.9 --service-cidr=10.96.0.0/12 --exclude-cidr=10.1.0.0/16 --exclude-port=53,22": func(o *inject.Options) {
			o.Named.Capture, o.Named.Services, o.Named.Exclude = prefixes("10.0.0.0/8", "fd00::/8", "10.9.9.9/32"), prefixes("10.96.0.0/12"), prefixes("10.1.0.0/16")
			o.Named.ExcludePorts = []uint16{53, 22}
		},
		"--wire=inband --allow=ns/prod/sa/* --allow ns/ops/sa/backup:80,90 --deny=ns/dev/sa/*:22 --audit --max-connections-per-peer=100 --block-udp --allow-plaintext-from=192.0.2.0/24:80,9000-9010,2001:db8::7 --outside=refuse --node-ports=20000-20010 --metrics-addr=:18445 --log=refused --log-limit=64Mi": func(o *inject.Options) {
			o.Wire, o.BlockUDP, o.MetricsAddr = api.WireInband, true, ":18445"
			o.Log, o.LogLimit = api.LogRefused, 64<<20
			o.Rules = api.Rules{Allow: []string{"ns/prod/sa/*", "ns/ops/sa/backup:80,90"}, Deny: []string{"ns/dev/sa/*:22"}, Audit: true, MaxPerPeer: 100}
			o.Named.PlaintextFrom = []api.Source{
				{From: netip.MustParsePrefix("192.0.2.0/24"), Ports: api.Ports{{First: 80, Last: 80}, {First: 9000, Last: 9010}}},
				{From: netip.MustParsePrefix("2001:db8::7/128")},
			}
			o.Named.NodePorts, o.Named.Outside = [2]uint16{20000, 20010}, api.OutsideRefuse
		},
		// Without the in-band wire there is nothing to do about node ports.
		"--wire=port":                     func(o *inject.Options) { o.Wire, o.Named.NodePorts = api.WirePort, [2]uint16{} },
		"--node-ports=":                   func(o *inject.Options) { o.Named.NodePorts = [2]uint16{} },
		"--node-ports=30000":              func(o *inject.Options) { o.Named.NodePorts = [2]uint16{30000, 30000} },
		"--mode=strict --on-failure=open": func(o *inject.Options) { o.Mode, o.OnFailure = api.Strict, api.FailOpen },
		"--delivery=csr --existing=reset": func(o *inject.Options) {
			o.Delivery, o.Existing = inject.DeliveryCSR, api.ExistingReset
		},
	} {
		wantOptions := inject.Options{Image: installed.DefaultImage(version), Mode: api.Permissive, Wire: api.WireAuto,
			Existing: api.ExistingReport, Delivery: inject.DeliverySecret, Timeout: time.Minute,
			Log: api.LogConnections, LogLimit: api.DefaultLogLimit,
			Succession: inject.Succession{DrainTimeout: 30 * time.Second},
			Named:      api.Coverage{NodePorts: [2]uint16{30000, 32767}, Outside: api.OutsideCount}}
		change(&wantOptions)
		options, err := enableFlags(t, strings.Fields(line)...)
		diff := cmp.Diff(wantOptions, options, cmpopts.EquateComparable(netip.Prefix{}))
		if err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", line, err, diff)
		}
	}
}

func TestEnableRefusesFlags(t *testing.T) {
	if code, _, stderr := (&apiServer{}).start(t)("enable", "pod/a", "--delivery=csr", "--keep-secret"); code != 1 || !strings.Contains(stderr, "csr makes no Secret") {
		t.Errorf("a Secret that is not there is to be kept: %s", stderr)
	}
	for _, args := range []string{
		"--mode=paranoid", "--on-failure=maybe", "--dry-run=yes", "--image-pull-policy=Sometimes", "--output=wide", "--image=",
		"--cert-ttl=0", "--cert-ttl=-1h", "--cert-ttl=soon", "--timeout=0s", "--parallel=0",
		"--capture-cidr=10.0.0.0/33", "--service-cidr=all", "--exclude-cidr=::ffff:10.0.0.1/100", "--exclude-port=0", "--exclude-port=65536", "--exclude-port=http",
		"--delivery=mail", "--existing=kill", "--wire=none", "--allow=prod", "--allow=", "--allow-plaintext-from=all", "--node-ports=0-5", "--node-ports=5-4", "--node-ports=http", "--node-ports=1-65536",
		"--metrics-addr=18445", "--metrics-addr=:18443", "--metrics-addr=0.0.0.0:18445", "--metrics-addr=localhost:18445",
		"--log=all", "--log-limit=1000", "--log-limit=much", "--log-limit=-1Mi",
	} {
		if _, err := enableFlags(t, args); err == nil {
			t.Errorf("%s is accepted", args)
		}
	}
}

func TestEnableNeedsPods(t *testing.T) {
	if code, _, stderr := execute(t, "--server=http://127.0.0.1:1", "enable"); code != 1 || !strings.Contains(stderr, "no pod is named") || !strings.Contains(stderr, "hint: ") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// enableRun is one run of enable on a fake cluster, which allows dry runs by
// the client only: it knows no patch of a subresource.
type enableRun struct {
	o       enableOptions
	options inject.Options
	pods    []*corev1.Pod
	missing error
	version string
	// taken pods are not named, but those of workloads.
	taken     bool
	workloads []targets.Workload
	// unconfirmed is without --yes, real without a dry run.
	unconfirmed, real bool
	out, errOut       bytes.Buffer
}

func (r *enableRun) run(t *testing.T, ctx context.Context) error {
	t.Helper()
	client := fakecluster.New(t,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24", "fd00:10:244:1::/64"}}},
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}},
	)
	if r.version == "" {
		r.version = "v1.37.2"
	}
	client.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &apiversion.Info{GitVersion: r.version}
	authority := must.Get(ca.New(ca.Options{}))(t)
	r.options = inject.Options{Image: "img", Mode: api.Permissive, OnFailure: api.FailOpen, Timeout: time.Minute, DryRun: installed.DryRunClient}
	if r.real {
		r.options.DryRun = installed.DryRunNone
	}
	r.o.parallel = 4
	found := targets.Selection{Named: map[types.NamespacedName]bool{}, Workloads: r.workloads}
	for _, pod := range r.pods {
		found.Pods = append(found.Pods, *pod)
		if !r.o.targets.All && !r.taken {
			found.Named[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}] = true
		}
	}
	r.o.yes = !r.unconfirmed
	a := &app{IOStreams: genericiooptions.IOStreams{Out: &r.out, ErrOut: &r.errOut}}
	injector := &inject.Injector{Client: client, Authority: authority, Options: r.options}
	verb := r.o.verb(injector)
	verb.begin = func(context.Context, *job) (worker[inject.Result], error) { return injector.Enable, nil }
	return verb.on(ctx, a, client, nil, &found, r.missing)
}

func TestEnableGoesOnAfterAFailure(t *testing.T) {
	host := fakecluster.NewPod("host")
	host.Spec.HostNetwork = true
	r := enableRun{pods: []*corev1.Pod{host, fakecluster.NewPod("a")},
		missing: errors.Join(api.WithHint(errors.New(`pod "x" not found`), "look again"), api.WithHint(errors.New(`pod "y" not found`), "look again"))}
	if err := r.run(t, t.Context()); !errors.Is(err, errReported) {
		t.Error(err)
	}
	if out := r.out.String(); !strings.HasPrefix(out, "pod/a gateway enabled (kube-gateway, ") || !strings.HasSuffix(out, " (dry run)\n") {
		t.Errorf("results: %q", r.out.String())
	}
	for _, want := range []string{"error: pod \"x\" not found\nhint: look again\nerror: pod \"y\" not found\n", "pod/host: error: ", "hostNetwork", "error: 3 of 4 pods failed\n"} {
		if !strings.Contains(r.errOut.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &r.errOut)
		}
	}
}

func TestEnableSkipsWhatHasFinishedUnlessItIsNamed(t *testing.T) {
	job := fakecluster.NewPod("job")
	job.Status.Phase = corev1.PodSucceeded
	named := enableRun{pods: []*corev1.Pod{job}}
	if err := named.run(t, t.Context()); !errors.Is(err, errReported) {
		t.Errorf("named: %v", err)
	}
	selected := enableRun{pods: []*corev1.Pod{job, fakecluster.NewPod("a")}}
	selected.o.targets.All = true
	if err := selected.run(t, t.Context()); err != nil || !strings.Contains(selected.errOut.String(), "pod/job: skipped") {
		t.Errorf("selected: %v\n%s", err, &selected.errOut)
	}
}

func TestEnableRefusesAnOldServer(t *testing.T) {
	r := enableRun{pods: []*corev1.Pod{fakecluster.NewPod("a")}, version: "v1.32.4"}
	if err := r.run(t, t.Context()); err == nil || !strings.Contains(err.Error(), "1.33 or later") || api.Hint(err) == "" {
		t.Error(err)
	}
}

func TestEnableInterruptedIsNoSuccess(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	r := enableRun{pods: []*corev1.Pod{fakecluster.NewPod("a")}}
	if err := r.run(t, ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestEnableDryRunObjects(t *testing.T) {
	for _, format := range []string{"yaml", "json"} {
		r := enableRun{pods: []*corev1.Pod{fakecluster.NewPod("a"), fakecluster.NewPod("b")}}
		r.o.output = format
		must.Do(t, r.run(t, t.Context()))
		text := r.out.String()
		if strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, "LS0tLS1") {
			t.Errorf("%s has a key in it:\n%s", format, text)
		}
		var items []string
		if format == "json" {
			var list struct{ Items []json.RawMessage }
			must.Do(t, json.Unmarshal([]byte(text), &list))
			for _, item := range list.Items {
				items = append(items, string(item))
			}
		} else {
			items = strings.Split(text, "\n---\n")
		}
		if len(items) != 4 {
			t.Fatalf("%s: %d objects:\n%s", format, len(items), text)
		}
		var secret corev1.Secret
		var pod corev1.Pod
		must.Do(t, errors.Join(yaml.UnmarshalStrict([]byte(items[0]), &secret), yaml.UnmarshalStrict([]byte(items[1]), &pod)))
		if pod.Name != "a" {
			t.Errorf("%s: the order is not that of the pods", format)
		}
		if secret.Kind != "Secret" || secret.StringData["tls.key"] != "" || !strings.Contains(secret.StringData["ca.crt"], "CERTIFICATE") {
			t.Errorf("%s: %+v", format, secret)
		}
		if pod.Kind != "Pod" || len(pod.Spec.EphemeralContainers) != 1 {
			t.Errorf("%s: %+v", format, pod)
		}
	}
}

// TestEnableReport prints what a real run has to say in every format.
func TestEnableReport(t *testing.T) {
	end := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	results := []inject.Result{
		{Pod: fakecluster.NewPod("a"), Action: inject.Enabled, Container: "kube-gateway", Elapsed: 1840 * time.Millisecond, Status: &api.Status{
			Identity: "spiffe://td/ns/shop/sa/default", Mode: api.Strict, Cert: api.Certificate{NotAfter: end}}},
		{Pod: fakecluster.NewPod("b"), Action: inject.Unchanged, Container: "kube-gateway-2", Warnings: []string{"it stays as it is"}},
		{Pod: fakecluster.NewPod("c"), Action: inject.Failed, Err: api.WithHint(errors.New("no such\nimage \x1b[31m"), "check --image")},
		{Pod: fakecluster.NewPod("d"), Action: inject.Failed, Err: api.WithHint(errors.New("no such image"), "check --image")},
	}
	const first, second = "pod/a gateway enabled (kube-gateway, 1.8s)\n", "pod/b gateway already enabled (kube-gateway-2, 0.0s)\n"
	for format, want := range map[string]string{
		"":     first + second,
		"name": "pod/a\npod/b\n",
		"json": "",
		"yaml": "",
	} {
		var out, errOut bytes.Buffer
		o := enableOptions{output: format}
		if err := reportOn(o.verb(&inject.Injector{}), results, &out, &errOut); !errors.Is(err, errReported) {
			t.Errorf("%s: %v", format, err)
		}
		progress := "pod/b: warning: it stays as it is\n"
		if want == "" {
			progress = first + second + progress
		}
		progress += "pod/c: error: no such image \\x1b[31m\nhint: check --image\n" +
			"pod/d: error: no such image\n" +
			"error: 2 of 4 pods failed\nhint: 'kubectl gateway check pod/c pod/d -n shop' looks for what is wrong; the same command can be run again at any time\n"
		if errOut.String() != progress {
			t.Errorf("%s: progress:\n%s", format, &errOut)
		}
		if want != "" {
			if out.String() != want {
				t.Errorf("%s: results:\n%s", format, &out)
			}
			continue
		}
		var list struct{ Items []injectItem }
		if err := yaml.Unmarshal(out.Bytes(), &list); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if len(list.Items) != 4 || list.Items[0].Action != inject.Enabled || !list.Items[0].NotAfter.Equal(end) ||
			list.Items[1].Warnings[0] != "it stays as it is" || list.Items[2].Hint != "check --image" || list.Items[3].Error != "no such image" {
			t.Errorf("%s:\n%s", format, &out)
		}
	}
}

// reportOn prints what a verb has to tell about results.
func reportOn[R, I any](v *podVerb[R, I], results []R, out, errOut io.Writer) error {
	r := newReport(&app{IOStreams: genericiooptions.IOStreams{Out: out, ErrOut: errOut}}, v.output)
	for _, result := range results {
		r.add(v.tell(result))
	}
	return v.finish(r, &targets.Selection{}, results)
}

// brokenPipe is an output stream that nobody reads.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestEnableReportThatCannotBeWritten(t *testing.T) {
	o := enableOptions{output: "name"}
	results := []inject.Result{{Pod: fakecluster.NewPod("a"), Action: inject.Enabled}}
	if err := reportOn(o.verb(&inject.Injector{}), results, brokenPipe{}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "broken pipe") {
		t.Error(err)
	}
}
