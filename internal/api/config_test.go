package api

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// equal is expect.Equal, which imports this package.
func equal[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func goodConfig() Config {
	return Config{
		Version: ConfigVersion, Pod: PodRef{Namespace: "ns", Name: "pod", UID: "uid"},
		PodIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, TrustDomain: "td",
		Mode: Strict, OnFailure: FailClosed,
		Coverage: Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	}
}

func TestConfigKeepsWhatItIsGiven(t *testing.T) {
	c := goodConfig()
	c.Wire, c.NodePorts, c.BlockUDP = WireInband, [2]uint16{20000, 20100}, true
	c.Nodes = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	c.PlaintextFrom = []Source{{From: netip.MustParsePrefix("192.0.2.1/32"), Ports: Ports{{First: 80, Last: 80}, {First: 9000, Last: 9010}}}}
	c.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:80")}
	c.Pass = []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::9]:443")}
	c.Probes, c.Outside, c.Named.Exclude = Ports{{First: 80, Last: 80}}, OutsideRefuse, []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	c.Rules = Rules{Allow: []string{"ns/prod/sa/*"}, Deny: []string{"ns/prod/sa/web:22"}, Audit: true, MaxPerPeer: 10}
	c.MetricsAddr = ":18445"
	text := must.Get(json.Marshal(c))(t)
	got := must.Get(ParseConfig(text))(t)
	equal(t, "what is read back", &c, got)
}

func TestConfigDefaults(t *testing.T) {
	text := must.Get(json.Marshal(goodConfig()))(t)
	for _, field := range []string{"wire", "nodePorts", "allow", "deny", "audit", "maxConnectionsPerPeer", "blockUDP", "existing", "watched", "metricsAddr", "named", "endpoints", "pass", "probes", "outside"} {
		if strings.Contains(string(text), field) {
			t.Errorf("%s is written without need: %s", field, text)
		}
	}
	got := must.Get(ParseConfig(text))(t)
	want := goodConfig()
	want.Wire = WireAuto
	equal(t, "the defaults", &want, got)
}

func TestBadConfig(t *testing.T) {
	mapped := netip.MustParsePrefix("::ffff:10.0.0.0/104")
	for name, change := range map[string]func(*Config){
		"version": func(c *Config) { c.Version = 99 },
		"mode":    func(c *Config) { c.Mode = "lenient" }, "failure": func(c *Config) { c.OnFailure = "" },
		"pod": func(c *Config) { c.Pod.UID = "" }, "no address": func(c *Config) { c.PodIPs = nil },
		"no range": func(c *Config) { c.Capture = nil }, "trust domain": func(c *Config) { c.TrustDomain = "" },
		"wire": func(c *Config) { c.Wire = "none" }, "existing": func(c *Config) { c.Existing = "drop" }, "mapped range": func(c *Config) { c.Capture[0] = mapped },
		"pod link-local":  func(c *Config) { c.PodIPs[0] = netip.MustParseAddr("fe80::1") },
		"pod multicast":   func(c *Config) { c.PodIPs[0] = netip.MustParseAddr("224.0.0.1") },
		"pod loopback":    func(c *Config) { c.PodIPs[0] = netip.IPv6Loopback() },
		"node":            func(c *Config) { c.Nodes = []netip.Addr{netip.IPv4Unspecified()} },
		"no node":         func(c *Config) { c.Nodes = []netip.Addr{{}} },
		"ports backwards": func(c *Config) { c.NodePorts = [2]uint16{2, 1} },
		"port zero":       func(c *Config) { c.NodePorts = [2]uint16{0, 1} },
		"plaintext from":  func(c *Config) { c.PlaintextFrom = []Source{{From: mapped}} },
		"rule":            func(c *Config) { c.Allow = []string{"prod"} },
	} {
		c := goodConfig()
		must.Do(t, c.Validate())
		change(&c)
		if err := c.Validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestParseMetricsAddr(t *testing.T) {
	for text, want := range map[string]netip.AddrPort{
		":18445":              netip.AddrPortFrom(netip.Addr{}, 18445),
		"127.0.0.1:1":         netip.MustParseAddrPort("127.0.0.1:1"),
		"[::1]:65535":         netip.MustParseAddrPort("[::1]:65535"),
		"10.0.0.1:18445":      netip.MustParseAddrPort("10.0.0.1:18445"),
		"[2001:db8::1]:18445": netip.MustParseAddrPort("[2001:db8::1]:18445"),
	} {
		if got, err := ParseMetricsAddr(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", ":", "18445", ":0", ":65536", ":-1", ":http", "localhost:18445", "127.0.0.1", "127.0.0.1:", "::1:18445", ":: 1",
		":18000", "127.0.0.1:18443", "[::1]:18444", "0.0.0.0:18445", "[::]:18445", "[fe80::1%eth0]:18445", "[::ffff:127.0.0.1]:18445",
		":18445\n", " :18445",
	} {
		if got, err := ParseMetricsAddr(text); err == nil || Hint(err) == "" || got.IsValid() || got.Port() != 0 {
			t.Errorf("%q: %v, %v, hint %q", text, got, err, Hint(err))
		}
	}
}

func TestConfigMetricsAddr(t *testing.T) {
	for text, good := range map[string]bool{
		"": true, ":18445": true, "127.0.0.1:18445": true, "127.0.0.9:18445": true, "[::1]:18445": true, "10.0.0.1:18445": true,
		"10.0.0.2:18445": false, "[2001:db8::1]:18445": false, ":18443": false, "no": false,
	} {
		c := goodConfig()
		c.MetricsAddr = text
		if err := c.Validate(); (err == nil) != good || err != nil && Hint(err) == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseMetricsAddr(f *testing.F) {
	for _, text := range []string{":18445", "127.0.0.1:18445", "[::1]:18445", "[fe80::1%a]:1", "", "[::ffff:1.2.3.4]:1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		addr, err := ParseMetricsAddr(text)
		if err != nil {
			return
		}
		ip, port := addr.Addr(), addr.Port()
		if port == 0 || port == CapturePort || port == PeerPort || port == InbandPort ||
			ip.IsValid() && (ip.IsUnspecified() || ip.Zone() != "" || ip.Is4In6()) || ip.IsValid() == (text[0] == ':') {
			t.Errorf("%q is read as %v", text, addr)
		}
	})
}

// A process in the container of a sidecar knows its pod from the variables that the kubelet fills in.
func TestConfigFromEnv(t *testing.T) {
	c := goodConfig()
	c.Sidecar, c.Pod, c.PodIPs = true, PodRef{}, nil
	env := map[string]string{
		EnvConfig: string(must.Get(json.Marshal(c))(t)), EnvPodNamespace: "ns", EnvPodName: "pod", EnvPodUID: "uid", EnvPodIPs: "10.0.0.1",
	}
	lookup := func(name string) (string, bool) { value, ok := env[name]; return value, ok }
	want := goodConfig()
	want.Sidecar, want.Wire = true, WireAuto
	equal(t, "a sidecar's", &want, must.Get(ConfigFromEnv(lookup))(t))
	delete(env, EnvConfig)
	if _, err := ConfigFromEnv(lookup); err == nil || !strings.Contains(err.Error(), EnvConfig) {
		t.Errorf("without a configuration the error is %v", err)
	}
}
