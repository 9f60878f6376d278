package remote

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// conversation is a container that prints say, then reads one line, then prints
// what answer makes of it. It never sees the end of its input.
func conversation(say string, answer func(line string, stdout, stderr io.Writer) int) container {
	return func(_ *http.Request, stdin io.Reader, stdout, stderr io.Writer) metav1.Status {
		_, _ = io.WriteString(stdout, say)
		line, err := bufio.NewReader(stdin).ReadString('\n')
		if err != nil {
			return exit(1)
		}
		return exit(answer(line, stdout, stderr))
	}
}

func ready(serial string) string {
	return fmt.Sprintf(`{"state":"ready","certificate":{"serial":%q,"issuer":"root","authorities":["root"]}}`, serial) + "\n"
}

// signer is an authority whose certificates are text, with the serial "5e".
type signer func(csr []byte) ([]byte, error)

func (signer) TrustDomain() string          { return "td" }
func (signer) Bundle() []byte               { return []byte("roots") }
func (signer) Revocations() *ca.Revocations { return nil }
func (signer) Roots() []string              { return []string{"root"} }

func (s signer) Keeping([]string) ca.Issuer { return s }

func (s signer) Certify(_ context.Context, csr []byte, request ca.LeafRequest) (*ca.Leaf, error) {
	if len(request.IPs) != 1 || request.Pod.Name != "web" || request.Identity.String() != "spiffe://td/ns/demo/sa/default" {
		return nil, fmt.Errorf("asked for %+v", request)
	}
	text, err := s(csr)
	return &ca.Leaf{CertPEM: text, Serial: "5e"}, err
}

func signWith(certificate string) signer {
	return func(csr []byte) ([]byte, error) { return []byte(certificate + " for " + string(csr)), nil }
}

func TestRenew(t *testing.T) {
	for name, refused := range map[string]http.HandlerFunc{"websocket": nil, "spdy": kubelet(http.StatusBadRequest, "no")} {
		t.Run(name, func(t *testing.T) {
			var got string
			s := &server{pod: running(), refuseWebSocket: refused, run: conversation(`{"csr":"request\n"}`+"\n", func(line string, stdout, _ io.Writer) int {
				got = line
				_, _ = io.WriteString(stdout, ready("5e"))
				return 0
			})}
			status, err := s.start(t).Renew(bounded(t), signWith("leaf"), 0)
			if err != nil || status.Cert.Serial != "5e" {
				t.Fatalf("got %+v, %v", status, err)
			}
			expect.Equal(t, "commands", []string{"/kube-gateway ctl renew -o json"}, s.asked())
			expect.Equal(t, "what the gateway was told", `{"certificate":"leaf for request\n","bundle":"roots"}`+"\n", got)
		})
	}
}

func TestRenewFails(t *testing.T) {
	no := api.WithHint(errors.New("the authority is locked"), "unlock it")
	const request = `{"csr":"request"}` + "\n"
	refuses := func(_ string, _, stderr io.Writer) int {
		_, _ = io.WriteString(stderr, "error: the \x1b[2Jcertificate is for somebody else\nhint: compare\n")
		return 1
	}
	prints := func(text string) func(string, io.Writer, io.Writer) int {
		return func(_ string, stdout, _ io.Writer) int {
			_, _ = io.WriteString(stdout, text)
			return 0
		}
	}
	agrees := prints(ready("1"))
	for _, c := range []struct {
		name       string
		run        container
		sign       signer
		text, hint string
		signed     int
	}{
		{"sign", conversation(request, agrees), func([]byte) ([]byte, error) { return nil, no }, "the authority is locked", "unlock it", 1},
		{"refused", conversation(request, refuses), signWith("x"), "certificate is for somebody else", "compare", 1},
		{"at once", says(1, "", "error: unknown control command \"renew\"\nhint: see help\n"), signWith("x"), `unknown control command "renew"`, "see help", 0},
		{"no request", conversation(ready("1"), agrees), signWith("x"), "not a certificate request", "", 0},
		{"garbage", conversation("\x1b[2J{\n", agrees), signWith("x"), "reading its request", "", 0},
		{"no status", conversation(request, prints("")), signWith("x"), "reading its answer", "", 1},
		{"another certificate", conversation(request, prints(ready("5f"))), signWith("x"), "not the one that was made", "", 1},
		{"another answer", conversation(request, prints(request)), signWith("x"), "not a status", "", 1},
		{"long request", conversation(strings.Repeat("x", requestLimit+1), agrees), signWith("x"), "too long", "", 0},
		{"long answer", conversation(request, prints(strings.Repeat("\x00", answerLimit+1))), signWith("x"), "too long", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			signed := 0
			status, err := (&server{run: c.run, pod: running()}).start(t).Renew(bounded(t),
				signer(func(csr []byte) ([]byte, error) { signed++; return c.sign(csr) }), 0)
			if status != nil || err == nil || !strings.Contains(err.Error(), c.text) || strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("got %+v, %v, want an error with %q", status, err, c.text)
			}
			if api.Hint(err) != c.hint {
				t.Errorf("hint %q, want %q", api.Hint(err), c.hint)
			}
			expect.Equal(t, "certificates signed", c.signed, signed)
		})
	}
}

// Neither a gateway that says nothing nor a slow authority keeps Renew from
// ending with its context.
// TestRenewSignsNoOtherAddress: what a kubelet adds to its pod's status after the gateway was made is
// no reason for another certificate.
func TestRenewSignsNoOtherAddress(t *testing.T) {
	config := must.Get(json.Marshal(api.Config{Version: api.ConfigVersion, Pod: api.PodRef{Namespace: "demo", Name: "web", UID: "u"},
		PodIPs: []netip.Addr{netip.MustParseAddr("10.0.0.7")}, TrustDomain: "td", Mode: api.Permissive, OnFailure: api.FailOpen,
		Coverage: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}))(t)
	for name, add := range map[string][]corev1.PodIP{"as it was": nil, "with another address": {{IP: "10.0.9.9"}}} {
		pod := running()
		container := corev1.EphemeralContainer{}
		container.Name, container.Env = "kube-gateway", []corev1.EnvVar{{Name: api.EnvConfig, Value: string(config)}}
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, container)
		pod.Status.PodIPs = append(pod.Status.PodIPs, add...)
		s := &server{pod: pod, run: conversation(`{"csr":"request\n"}`+"\n", func(_ string, stdout, _ io.Writer) int {
			_, _ = io.WriteString(stdout, ready("5e"))
			return 0
		})}
		asked := false
		_, err := s.start(t).Renew(bounded(t), signer(func([]byte) ([]byte, error) { asked = true; return nil, nil }), 0)
		if add == nil {
			must.Do(t, err)
		} else {
			expect.Refusal(t, name, err, installed.ErrOtherAddresses, "", "disable pod/web -n demo")
		}
		if asked != (add == nil) {
			t.Errorf("%s: signed %v", name, asked)
		}
	}
}

func TestRenewEndsWithItsContext(t *testing.T) {
	for _, say := range []string{"", `{"csr":"request"}` + "\n"} {
		stop, here := make(chan struct{}), make(chan struct{}, 1)
		s := &server{pod: running(), run: func(_ *http.Request, _ io.Reader, stdout, _ io.Writer) metav1.Status {
			_, _ = io.WriteString(stdout, say)
			if say == "" {
				here <- struct{}{}
			}
			<-stop
			return exit(0)
		}}
		ctx, cancel := context.WithCancel(bounded(t))
		go func() { <-here; cancel() }()
		_, err := s.start(t).Renew(ctx, signer(func([]byte) ([]byte, error) {
			here <- struct{}{}
			<-stop
			return nil, errors.New("too late")
		}), 0)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(stop)
	}
}

func TestTrustAndReset(t *testing.T) {
	var got string
	s := &server{run: func(r *http.Request, stdin io.Reader, stdout, _ io.Writer) metav1.Status {
		if got = ""; r.URL.Query().Get("stdin") == "true" {
			got, _ = bufio.NewReader(stdin).ReadString('\n')
		}
		_, _ = io.WriteString(stdout, ready("1"))
		return exit(0)
	}}
	client := s.start(t)
	status, err := client.Trust(bounded(t), []byte("a\nb\n"), nil)
	if err != nil || status.State != api.Ready || got != `{"bundle":"a\nb\n"}`+"\n" {
		t.Errorf("%+v, %v, told %q", status, err, got)
	}
	status, err = client.ResetExisting(bounded(t))
	if err != nil || status.State != api.Ready || got != "" {
		t.Errorf("%+v, %v, told %q", status, err, got)
	}
	expect.Equal(t, "commands", []string{"/kube-gateway ctl trust -o json", "/kube-gateway ctl reset -o json"}, s.asked())
	s.run = says(1, "", "error: no\nhint: renew\n")
	status, err = client.Trust(bounded(t), nil, nil)
	if status != nil || err == nil || err.Error() != "no" || api.Hint(err) != "renew" {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestDisable(t *testing.T) {
	s := answering(0, `{"drained":3,"aborted":0,"left":["map 7"],"fromTheFuture":1}`)
	report, err := s.start(t).Disable(bounded(t), 90*time.Second)
	if err != nil || report.Drained != 3 || report.Aborted != 0 || !slices.Equal(report.Left, []string{"map 7"}) {
		t.Errorf("got %+v, %v", report, err)
	}
	expect.Equal(t, "commands", []string{"/kube-gateway ctl status -o json", "/kube-gateway ctl disable --drain-timeout=1m30s -o json"}, s.asked())
	for _, text := range []string{"", "null", "{}", `{"drained":1}`, `{"drained":-1,"aborted":0}`, "\x1b", `{"drained":1,"aborted":`} {
		report, err := answering(0, text).start(t).Disable(bounded(t), 0)
		if report != nil || err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %+v, %v", text, report, err)
		}
	}
}

// However the words are cut into writes, the first line and the rest are the same.
func FuzzFirstLine(f *testing.F) {
	f.Add([]byte("request\nstatus\nmore"), 3)
	f.Add([]byte("no end"), 1)
	f.Add([]byte("\n"), 1)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		const limit = 64
		var rest bytes.Buffer
		var lines [][]byte
		over := 0
		w := &firstLine{limit: limit, rest: &rest, full: func() { over++ },
			take: func(b []byte) { lines = append(lines, b) }}
		for part := range slices.Chunk(text, min(max(1, size), 1<<16)) {
			if n, err := w.Write(part); n != len(part) || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
		}
		first, after, complete := bytes.Cut(text, []byte("\n"))
		switch {
		case len(first) > limit:
			if over != 1 || lines != nil || rest.Len() != 0 {
				t.Errorf("too long: %d, %q, %q", over, lines, rest.String())
			}
		case !complete:
			if over != 0 || lines != nil {
				t.Errorf("incomplete: %d, %q", over, lines)
			}
		case over != 0 || len(lines) != 1 || !bytes.Equal(lines[0], first) || !bytes.Equal(rest.Bytes(), after):
			t.Errorf("%d, %q, %q", over, lines, rest.String())
		}
	})
}

func FuzzParseGatewaysLines(f *testing.F) {
	f.Add([]byte(`{"csr":"x"}`))
	f.Add([]byte(`{"drained":1,"aborted":2,"left":["\u001b"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		answer, err := answerRequest(text, func([]byte) (*api.IssuedCertificate, error) { return &api.IssuedCertificate{}, nil })
		report, err2 := parse(text, (*disableReport).check)
		if (answer == nil) == (err == nil) || (report == nil) == (err2 == nil) {
			t.Fatalf("got %q, %v and %v, %v", answer, err, report, err2)
		}
		for _, err := range []error{err, err2} {
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\n\u009b") {
				t.Fatalf("harmful error %q", err)
			}
		}
	})
}
