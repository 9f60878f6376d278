package api

import (
	"net/netip"
	"testing"
)

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
