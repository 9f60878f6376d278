package inject

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

func existingConnections(outbound, inbound int) *api.ExistingConnections {
	e := &api.ExistingConnections{Outbound: outbound, Inbound: inbound}
	for i := range min(outbound+inbound, api.MaxExisting) {
		e.Connections = append(e.Connections, api.ExistingConnection{Direction: "Outbound",
			Local:  netip.AddrPortFrom(netip.MustParseAddr("10.244.1.7"), uint16(40000+i)),
			Remote: netip.MustParseAddrPort("[fd00::2]:5432")})
	}
	return e
}

func TestConnectionsFromBefore(t *testing.T) {
	for name, test := range map[string]struct {
		existing *api.ExistingConnections
		option   api.Existing
		want     string
	}{
		"nobody looked": {nil, api.ExistingReport, ""},
		"none":          {existingConnections(0, 0), api.ExistingReport, ""},
		"left alone":    {existingConnections(3, 1), api.ExistingLeave, ""},
		"one": {existingConnections(0, 1), api.ExistingReport,
			"1 connection that was open before stays in plaintext: 10.244.1.7:40000 to [fd00::2]:5432; --existing=reset has the application make new ones"},
		"many": {existingConnections(70, 30), "", "100 connections that were open before stay in plaintext: 10.244.1.7:40000 to [fd00::2]:5432, " +
			"10.244.1.7:40001 to [fd00::2]:5432, 10.244.1.7:40002 to [fd00::2]:5432, …; --existing=reset has the application make new ones"},
		"not named": {&api.ExistingConnections{Inbound: 2}, api.ExistingReport, "2 connections that were open before stay in plaintext; --existing=reset has the application make new ones"},
		"not reset": {&api.ExistingConnections{Inbound: 2}, api.ExistingReset, "2 connections that were open before stay in plaintext; the gateway could not reset them"},
		"nonsense":  {&api.ExistingConnections{Inbound: -2}, api.ExistingReport, ""},
	} {
		in := &Injector{Options: Options{Existing: test.option}}
		expect.Equal(t, name, test.want, strings.Join(in.existingRemarks(test.existing), "\n"))
	}
}

// TestEnableWithLittleMemory: the user hears how much the pod's limit leaves.
func TestEnableWithLittleMemory(t *testing.T) {
	c, in := newCluster(t)
	memory := &api.Memory{Limit: 128 << 20, Left: 31 << 20, Room: 490}
	in.Gateways = fakegateway.Gateways(func(ctx context.Context, call *fakegateway.Call) (any, error) {
		status, err := readyWith(in.Authority)(ctx, call.Pod, call.Container)
		status.Memory = memory
		return status, err
	}).Client(c)
	want := []string{"of the pod's memory limit of 128.0MiB 31.0MiB are left, enough for about 490 more connections: others are refused; raise the limit"}
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || !slices.Equal(result.Warnings, want) {
		t.Errorf("%q, %v", result.Warnings, result.Err)
	}
	memory.Left = api.HeadRoom
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || len(result.Warnings) > 0 {
		t.Errorf("%q, %v", result.Warnings, result.Err)
	}
}

// TestEnableWithAWireThatDoesNotReachServices: the user hears what is not encrypted, in a dry run, too.
func TestEnableWithAWireThatDoesNotReachServices(t *testing.T) {
	for mode, becomes := range map[api.Mode]string{api.Permissive: "plaintext", api.Strict: "refused"} {
		for _, wire := range []api.Wire{"", api.WireAuto, api.WireInband, api.WirePort} {
			for _, dryRun := range []installed.DryRun{installed.DryRunClient, installed.DryRunNone} {
				c, in := newCluster(t)
				in.Options.Mode, in.Options.Wire, in.Options.DryRun = mode, wire, dryRun
				in.Gateways = fakegateway.Gateways(func(ctx context.Context, call *fakegateway.Call) (any, error) {
					status, err := readyWith(in.Authority)(ctx, call.Pod, call.Container)
					status.Mode, status.Wire = mode, wire.OrDefault()
					return status, err
				}).Client(c)
				result := in.Enable(t.Context(), c.Pod("p"))
				told := slices.Contains(result.Warnings, "--wire=port does not reach Services and node ports: connections to them are "+becomes+"; --wire=auto encrypts them")
				if result.Err != nil || told != (wire == api.WirePort) {
					t.Errorf("mode %s, wire %q, dry run %q: %q, %v", mode, wire, dryRun, result.Warnings, result.Err)
				}
			}
		}
	}
}

func TestEnableToldToReset(t *testing.T) {
	c, in := newCluster(t)
	in.Options.Existing = api.ExistingReset
	asked, resets, refusal := 0, 4, error(nil)
	in.Gateways = fakegateway.Gateways(func(ctx context.Context, call *fakegateway.Call) (any, error) {
		if call.Op() == "reset" {
			if asked++; refusal != nil {
				return nil, refusal
			}
			resets += 3
		}
		status, err := readyWith(in.Authority)(ctx, call.Pod, call.Container)
		status.Existing = &api.ExistingConnections{Reset: resets}
		return status, err
	}).Client(c)
	// A new gateway resets by itself.
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || result.Reset != 4 || asked != 0 || len(result.Warnings) != 0 {
		t.Errorf("%+v, asked %d times", result, asked)
	}
	if config, err := installed.ConfigOf(c.Pod("p"), "kube-gateway"); err != nil || config.Existing != api.ExistingReset {
		t.Errorf("%+v, %v", config, err)
	}
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || result.Action != Unchanged || result.Reset != 3 || asked != 1 {
		t.Errorf("%+v, asked %d times", result, asked)
	}
	refusal = fakegateway.Refuse("the kernel cannot close sockets\nhint: CONFIG_INET_DIAG_DESTROY")
	result := in.Enable(t.Context(), c.Pod("p"))
	expect.Error(t, result.Err, "resetting connections that were open before the gateway: the kernel cannot")
	expect.Equal(t, "action", Failed, result.Action)
	// Nobody asks for a reset: none is made.
	in.Options.Existing, asked = api.ExistingReport, 0
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || asked != 0 || result.Reset != 0 {
		t.Errorf("%+v, asked %d times", result, asked)
	}
	in.Options.Existing, in.Options.DryRun = api.ExistingReset, installed.DryRunServer
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || asked != 0 {
		t.Errorf("%+v, a dry run asked %d times", result, asked)
	}
}

func TestClocksThatAreApart(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for offset, want := range map[time.Duration]string{
		0:                              "",
		maxSkew:                        "",
		-maxSkew:                       "",
		maxSkew + time.Second:          "the clock of node node-1 is 5m1s ahead of the clock of this machine",
		-(2*time.Hour + 3*time.Second): "the clock of node node-1 is 2h0m3s behind the clock of this machine",
	} {
		got := strings.Join(clockRemarks(fakecluster.NewPod("p"), &api.Status{Time: now.Add(offset)}, now), "\n")
		if want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%v: %q", offset, got)
		}
	}
	expect.Equal(t, "a gateway that does not tell its time", nil, clockRemarks(fakecluster.NewPod("p"), &api.Status{}, now))
	// A new gateway's clock is looked at, too.
	c, in := newCluster(t)
	in.Gateways = gateways(but(readyWith(in.Authority), func(status *api.Status) { status.Time = time.Now().Add(-time.Hour) }))
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "behind") {
		t.Errorf("%+v", result)
	}
}

// TestTwoRootsAreTrusted while the authority is being replaced, or a warning says so.
func TestTwoRootsAreTrusted(t *testing.T) {
	older, newer := newAuthority(t), newAuthority(t)
	in := &Injector{Authority: newer.Trusting(older.Root())}
	for want, has := range map[string][]string{
		"": {newer.Fingerprint(), older.Fingerprint()},
		"does not trust the authority of this command; to change that: kubectl gateway rotate pod/p -n shop": {newer.Fingerprint()},
	} {
		got := strings.Join(in.certificateRemarks(fakecluster.NewPod("p"), &api.Status{Cert: api.Certificate{NotAfter: time.Now().Add(time.Hour), Authorities: has}}), "\n")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestStrictIsExplained: enabling a pod in strict mode says who is kept out, in a dry run
// as well; in permissive mode nobody is.
func TestStrictIsExplained(t *testing.T) {
	for name, test := range map[string]struct {
		mode   api.Mode
		dryRun installed.DryRun
		want   bool
	}{
		"strict":          {api.Strict, installed.DryRunNone, true},
		"strict, dry run": {api.Strict, installed.DryRunClient, true},
		"permissive":      {api.Permissive, installed.DryRunNone, false},
	} {
		pod := fakecluster.NewPod("p")
		pod.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9090"}
		c := fakecluster.New(t, pod)
		in := newInjector(t, c)
		in.Gateways = gateways(func(_ context.Context, pod, _ string) (*api.Status, error) {
			return &api.Status{State: api.Ready, Mode: test.mode, Pod: api.PodRef{UID: "uid-" + pod}}, nil
		})
		in.Options.Mode, in.Options.DryRun, in.Options.Named = test.mode, test.dryRun, api.Coverage{}
		result := in.Enable(t.Context(), c.Pod("p"))
		if got := strings.Contains(strings.Join(result.Warnings, "\n"), "Prometheus scrapes it at port 9090"); result.Err != nil || got != test.want {
			t.Errorf("%s: %v, warnings %q", name, result.Err, result.Warnings)
		}
	}
}
