//go:build linux

package proxy

import (
	"bytes"
	"context"
	"crypto"
	"crypto/fips140"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

// fipsVariable holds the fipsEnd that a process of TestFIPSHandshake plays. Descriptor 3 is its connection.
const fipsVariable = "PROXY_TEST_FIPS_END"

// fipsEnd is one gateway of a handshake.
type fipsEnd struct {
	Dials            bool
	IP, Peer         netip.Addr
	Chain, Key, Root []byte
}

// fipsSeen is what an end says of its connection.
type fipsSeen struct {
	FIPS                bool
	KeyExchange, Cipher string
}

// TestFIPSHandshake: gateways in FIPS 140-3 mode speak to each other and to those that are not, with keys
// of every kind that an authority may have. The mode is that of a process, so each end is one.
func TestFIPSHandshake(t *testing.T) {
	if text := os.Getenv(fipsVariable); text != "" {
		var end fipsEnd
		must.Do(t, json.Unmarshal([]byte(text), &end))
		end.play(t)
		return
	}
	t.Parallel()
	for _, c := range []struct {
		name                string
		authority           crypto.Signer
		dialling, accepting string
	}{
		{"both", newAuthority(t).Key, "on", "on"},
		{"the dialling one", newAuthority(t).Key, "on", "off"},
		{"the accepting one", newAuthority(t).Key, "off", "on"},
		{"RSA authority", pki.RSAKey(t, 2048), "on", "on"},
		{"Ed25519 authority", pki.Ed25519Key(t), "on", "on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &authority{pki.Sign(t, "root", c.authority, nil, nil), x509.NewCertPool()}
			ips := []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")}
			pair := must.Get(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
			var waits []func() fipsSeen
			for i, mode := range []string{c.dialling, c.accepting} {
				wire := os.NewFile(uintptr(pair[i]), "wire")
				leaf := a.issue(t, ips[i:i+1], nil)
				waits = append(waits, fipsEnd{
					Dials: i == 0, IP: ips[i], Peer: ips[1-i], Root: a.Cert.Raw,
					Chain: leaf.Certificate[0], Key: must.Get(x509.MarshalPKCS8PrivateKey(leaf.PrivateKey))(t),
				}.start(t, mode, wire))
			}
			for i, mode := range []string{c.dialling, c.accepting} {
				want := fipsSeen{FIPS: mode == "on", KeyExchange: "X25519MLKEM768", Cipher: "TLS_AES_128_GCM_SHA256"}
				if diff := cmp.Diff(want, waits[i]()); diff != "" {
					t.Errorf("end %d, FIPS 140-3 mode %s:\n%s", i, mode, diff)
				}
			}
		})
	}
}

// start runs this test's program as an end, which gets wire, and returns what waits for its word.
func (e fipsEnd) start(t *testing.T, mode string, wire *os.File) func() fipsSeen {
	t.Helper()
	defer wire.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patienceForTests)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, must.Get(os.Executable())(t), "-test.run=^TestFIPSHandshake$")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140="+mode, fipsVariable+"="+string(must.Get(json.Marshal(e))(t)))
	cmd.ExtraFiles = []*os.File{wire}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must.Do(t, cmd.Start())
	return func() (seen fipsSeen) {
		t.Helper()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
		// The test's own report follows.
		must.Do(t, json.NewDecoder(&out).Decode(&seen))
		return seen
	}
}

// play is an end: it speaks TLS as the proxy does, and says on stdout what was agreed.
func (e fipsEnd) play(t *testing.T) {
	certificate := tls.Certificate{Certificate: [][]byte{e.Chain}, PrivateKey: must.Get(x509.ParsePKCS8PrivateKey(e.Key))(t)}
	roots := x509.NewCertPool()
	roots.AddCert(must.Get(x509.ParseCertificate(e.Root))(t))
	config := &api.Config{Mode: api.Strict, TrustDomain: testTrustDomain, PodIPs: []netip.Addr{e.IP}}
	s := must.Get(newSettings(config, certificate, roots, time.Now))(t)
	wire := must.Get(net.FileConn(os.NewFile(3, "wire")))(t)
	defer wire.Close()
	must.Do(t, wire.SetDeadline(time.Now().Add(patienceForTests)))
	records := must.Get(newRecordConn(wire.(stream), &bufferPools{}))(t)
	conn := tls.Server(records, s.server)
	if e.Dials {
		conn = tls.Client(records, s.clientConfig(e.Peer))
	}
	must.Do(t, conn.Handshake())
	must.Do(t, records.flush())
	records.startRelay()
	// More than one record, both ways, as connections are relayed.
	greeting := bytes.Repeat([]byte("hello"), 10_000)
	greet := func() {
		must.Do(t, records.seal(conn, append(bytes.Clone(greeting), 0), len(greeting)))
		must.Do(t, records.flush())
	}
	if e.Dials {
		greet()
	}
	var got []byte
	for len(got) < len(greeting) {
		must.Do(t, records.awaitRecord())
		b, n, err := records.decrypt(conn, nil)
		got = append(got, b.b[:n]...)
		if err != nil && err != error(errNoRecord) {
			t.Fatal(err)
		}
	}
	if !e.Dials {
		greet()
	}
	if !bytes.Equal(got, greeting) {
		t.Errorf("received %d bytes, %.20q", len(got), got)
	}
	state := conn.ConnectionState()
	must.Do(t, json.NewEncoder(os.Stdout).Encode(fipsSeen{fips140.Enabled(), state.CurveID.String(), tls.CipherSuiteName(state.CipherSuite)}))
}
