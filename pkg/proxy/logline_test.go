//go:build linux

package proxy

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// FuzzLine: a line is what encoding/json makes of it.
func FuzzLine(f *testing.F) {
	for _, text := range []string{"", "spiffe://cluster.local/ns/a/sa/b", "\"<&>\\\u2028\xff\x00\x7f", "Grüße"} {
		f.Add(uint64(1), text, 0.25)
		f.Add(uint64(7), text, 3e-7)
		f.Add(uint64(99), text, 1e22)
	}
	f.Fuzz(func(t *testing.T, seed uint64, text string, duration float64) {
		r := rand.New(rand.NewPCG(seed, 0))
		some := func() string { return []string{"", text, "plain"}[r.IntN(3)] }
		end := func() netip.AddrPort {
			return []netip.AddrPort{
				{}, netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("[::ffff:10.0.0.1]:1"),
				netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(text), 65535),
			}[r.IntN(4)]
		}
		c := api.Connection{
			Time:  time.Unix(r.Int64N(1<<32), r.Int64N(1e9)).In(time.FixedZone("", 60*r.IntN(600))),
			Level: some(), Message: some(), Direction: some(), Source: end(), Destination: end(), Dialled: end(),
			Peer: some(), Wire: some(), Encrypted: r.IntN(2) == 0, Reason: some(), Sent: r.Uint64(), Received: r.Uint64(),
			Duration: duration, Error: some(),
		}
		if r.IntN(2) == 0 {
			c.TLS = api.TLS{Version: some(), KeyExchange: some(), Cipher: some(), Resumed: r.IntN(2) == 0, Reused: r.IntN(2) == 0, Local: end(), Remote: end()}
		}
		want, err := json.Marshal(c)
		if err != nil {
			return // it is not a number
		}
		if got := string(appendLine(nil, &c)); got != string(want)+"\n" {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}
