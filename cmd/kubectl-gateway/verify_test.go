package main

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/muesli/termenv"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/verify"
)

// sighting is what was seen from one address to another.
func sighting(on, from, to, data string) *verify.Sighting {
	return &verify.Sighting{Interface: on, Source: netip.MustParseAddrPort(from), Destination: netip.MustParseAddrPort(to), Data: []byte(data)}
}

func encryptedResult() *verify.Result {
	const canary = "kube-gateway-canary-00112233445566778899aabbccddeeff"
	record := "\x17\x03\x03\x00\x30" + strings.Repeat("\xa5\x5a", 20)
	return &verify.Result{
		Verdict: verify.Encrypted, Canary: canary, Destination: netip.MustParseAddrPort("10.0.2.5:41233"), Wire: api.WirePort,
		TLS: api.TLS{Version: "TLS 1.3", KeyExchange: "X25519MLKEM768", Cipher: "TLS_AES_128_GCM_SHA256"},
		From: verify.Side{Namespace: "demo", Pod: "a", Gateway: true, Identity: "spiffe://td/ns/demo/sa/a", Packets: 31, Records: 6,
			Loopback: sighting("lo", "127.0.0.1:51000", "127.0.0.1:18000", canary[:48]),
			TLS:      sighting("eth0", "10.0.1.4:40000", "10.0.2.5:18443", record)},
		To: verify.Side{Namespace: "demo", Pod: "b", Gateway: true, Identity: "spiffe://td/ns/demo/sa/b", Packets: 30, Records: 6,
			Loopback: sighting("lo", "127.0.0.1:51001", "10.0.2.5:41233", canary[:48]),
			TLS:      sighting("eth0", "10.0.1.4:40000", "10.0.2.5:18443", record)},
	}
}

func plaintextResult() *verify.Result {
	r := encryptedResult()
	r.Verdict, r.Wire, r.TLS = verify.Plaintext, api.WireNone, api.TLS{}
	r.Reasons = []string{"the canary is readable on eth0 of pod/a -n demo", "the gateway of pod/a says: no gateway\x1b[2J"}
	r.From.Network, r.From.TLS, r.From.Identity = sighting("eth0", "10.0.1.4:40001", "10.0.2.5:80", r.Canary[:48]), nil, ""
	r.To = verify.Side{Namespace: "demo", Pod: "b"}
	return r
}

func inconclusiveResult() *verify.Result {
	r := plaintextResult()
	r.Verdict, r.Reasons, r.From.Network = verify.Inconclusive, []string{"the canary did not arrive within 5s"}, nil
	return r
}

func TestVerificationText(t *testing.T) {
	for name, r := range map[string]*verify.Result{"encrypted": encryptedResult(), "plaintext": plaintextResult(), "inconclusive": inconclusiveResult()} {
		for suffix, profile := range map[string]termenv.Profile{"": termenv.Ascii, "-terminal": termenv.ANSI} {
			var b strings.Builder
			must.Do(t, printVerification(&b, terminal.New(&b, suffix != "", profile), r))
			golden.Check(t, "verify-"+name+suffix+".golden", b.String())
		}
	}
}

func TestVerificationForPrograms(t *testing.T) {
	text := must.Get(encode(verifications{Kind: "VerificationList", Items: []*verify.Result{encryptedResult()}}, "json"))(t)
	golden.Check(t, "verify-json.golden", text)
}

func TestVerifyExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		results []*verify.Result
		failed  bool
		want    int
	}{
		"encrypted":    {results: []*verify.Result{encryptedResult()}},
		"inconclusive": {results: []*verify.Result{encryptedResult(), inconclusiveResult()}, want: 2},
		"failed":       {results: []*verify.Result{encryptedResult()}, failed: true, want: 2},
		"plaintext":    {results: []*verify.Result{inconclusiveResult(), plaintextResult()}, failed: true, want: 1},
	} {
		list := verifications{Items: c.results}
		err := list.outcome(c.failed)
		got := 0
		if err != nil {
			got = exitCode(err)
		}
		if got != c.want || err != nil && !errors.Is(err, errReported) {
			t.Errorf("%s: exit code %d, %v", name, got, err)
		}
	}
}

// TestVerifyCannotTry looks at exit codes: what goes wrong is no plaintext.
func TestVerifyCannotTry(t *testing.T) {
	server := &apiServer{pods: []corev1.Pod{podWithGateway("demo", "web", gatewayRuns()), podWithGateway("demo", "db", gatewayDied()),
		podWithGateway("demo", "plain", nil)}}
	run := server.start(t)
	fails(t, run, 2, map[string]string{
		"verify":                     "error: accepts between 1 and 2 arg(s), received 0",
		"verify web --port=70000":    "error: --port \"70000\" is not a port",
		"verify web -o xml":          "error: ",
		"verify web --timeout=0s":    "error: --timeout \"0s\" is not positive",
		"verify nobody web":          "error: pod \"nobody\" not found",
		"verify web":                 "error: no other pod of namespace demo has a gateway that runs\nhint: name the pod",
		"verify plain web":           "error: verifying pod/plain -n demo with pod/web -n demo: no gateway runs in the pod demo/plain\nhint: ",
		"verify db web":              "error: verifying pod/db -n demo with pod/web -n demo: no gateway runs in the pod demo/db\nhint: ",
		"verify web web":             "error: verifying pod/web -n demo with pod/web -n demo: a pod's connections to itself are on no network\nhint: ",
		"verify web plain":           "error: verifying pod/web -n demo with pod/plain -n demo: no port is known",
		"verify web plain --port=80": "error: verifying pod/web -n demo with pod/plain -n demo: not allowed to run commands in the pod",
	})
}
