package rotate

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func (g *fakeGateway) identity() identity.ID { return installed.Identity(g.pod, ca.DefaultTrustDomain) }

// readAuthority returns the certificates and the key of an authority's file.
func readAuthority(t *testing.T, path string) (cert, key []byte) {
	t.Helper()
	text := must.Get(os.ReadFile(path))(t)
	var certs, keys bytes.Buffer
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		to := map[string]*bytes.Buffer{"CERTIFICATE": &certs, "PRIVATE KEY": &keys}[block.Type]
		if to != nil {
			_ = pem.Encode(to, block)
		}
	}
	return certs.Bytes(), keys.Bytes()
}

func (w *world) pods(names ...string) []corev1.Pod {
	var pods []corev1.Pod
	for _, name := range names {
		pods = append(pods, *w.gateways[name].pod)
	}
	return pods
}

func TestRotateLeaves(t *testing.T) {
	w := newWorld(t, "local", "shop/web", "ops/db")
	w.gateways["shop/web"].failures = []error{errors.New("unexpected EOF")}
	before := map[string]string{"web": w.gateways["shop/web"].status().Cert.Serial, "db": w.gateways["ops/db"].status().Cert.Serial}
	r := Rotator{Gateways: w.client(), Authority: w.first, TTL: time.Hour}
	for _, pod := range w.pods("shop/web", "ops/db") {
		result := r.Rotate(t.Context(), &pod)
		if result.Err != nil {
			t.Fatalf("%s: %v", result.Pod.Name, result.Err)
		}
		cert := result.Status.Cert
		if result.OldSerial != before[result.Pod.Name] || cert.Serial == result.OldSerial || cert.Issuer != w.first.Fingerprint() ||
			time.Until(cert.NotAfter) > time.Hour || result.Container != "kube-gateway" || len(result.Warnings) != 0 {
			t.Errorf("%+v", result)
		}
	}
	w.check("after")
}

// One whose certificate ended long ago gets another one, and one without any gets
// its first.
func TestRotateExpired(t *testing.T) {
	w := newWorld(t, "local", "shop/web", "shop/new")
	g := w.gateways["shop/web"]
	past := time.Now().Add(-4 * time.Minute)
	leaf, err := w.first.Issue(ca.LeafRequest{Identity: g.identity(), TTL: time.Minute, Now: past})
	if err == nil {
		g.Chain = fakegateway.Certificates(leaf.CertPEM)
	} else if !errors.Is(err, ca.ErrExpired) {
		t.Fatal(err)
	}
	g.Chain[0].NotAfter = past
	w.gateways["shop/new"].state, w.gateways["shop/new"].Chain = api.Uncertified, nil
	r := Rotator{Gateways: w.client(), Authority: w.first}
	for _, pod := range w.pods("shop/web", "shop/new") {
		result := r.Rotate(t.Context(), &pod)
		if result.Err != nil || !result.Status.Cert.NotAfter.After(time.Now()) || (result.OldSerial == "") != (result.Pod.Name == "new") {
			t.Errorf("%s: %+v", result.Pod.Name, result)
		}
	}
}

func TestRotateFails(t *testing.T) {
	w := newWorld(t, "local", "shop/none", "shop/dead", "shop/imposter", "shop/stubborn", "shop/leaving", "shop/nowhere", "shop/good")
	w.gateways["shop/none"].pod.Spec.EphemeralContainers = nil
	setState(w.gateways["shop/dead"].pod, fakecluster.Terminated(0, ""))
	w.gateways["shop/imposter"].imposter = true
	w.gateways["shop/stubborn"].stubborn = true
	w.gateways["shop/leaving"].state = api.Draining
	w.change(w.gateways["shop/nowhere"], func(pod *corev1.Pod) { pod.Status.PodIPs = nil })
	r := Rotator{Gateways: w.client(), Authority: w.first}
	want := map[string]string{
		"none": "has no gateway", "dead": "does not run", "imposter": "another pod", "stubborn": "not the one that was made",
		"leaving": "being disabled", "nowhere": "no address", "good": "",
	}
	for _, pod := range w.pods("shop/none", "shop/dead", "shop/imposter", "shop/stubborn", "shop/leaving", "shop/nowhere", "shop/good") {
		result := r.Rotate(t.Context(), &pod)
		text := want[result.Pod.Name]
		if (result.Err == nil) != (text == "") || result.Err != nil && (!strings.Contains(result.Err.Error(), text) || result.Status != nil) {
			t.Errorf("%s: %+v", result.Pod.Name, result)
		}
	}
	if w.did("renew shop/imposter") {
		t.Error("a certificate was made for the imposter")
	}
	if hint := api.Hint(r.Rotate(t.Context(), w.gateways["shop/none"].pod).Err); !strings.Contains(hint, "enable pod/none -n shop") {
		t.Errorf("hint %q", hint)
	}
}

// Signing fails for a reason of its own, and asking again would not help.
func TestRotateNotSigned(t *testing.T) {
	w := newWorld(t, "local", "shop/web")
	w.change(w.gateways["shop/web"], func(pod *corev1.Pod) { pod.Spec.ServiceAccountName = "/" })
	r := Rotator{Gateways: w.client(), Authority: w.first}
	result := r.Rotate(t.Context(), w.gateways["shop/web"].pod)
	renewals := 0
	for _, what := range w.asked {
		if what == "renew shop/web" {
			renewals++
		}
	}
	if result.Err == nil || !strings.Contains(result.Err.Error(), "issuing a certificate") || renewals != 1 {
		t.Errorf("%v after %d attempts", result.Err, renewals)
	}
}

// TestRotateSignsForThePodAsItIs: the pod that was listed has other addresses and another
// account by the time its turn comes, or is another one.
func TestRotateSignsForThePodAsItIs(t *testing.T) {
	w := newWorld(t, "local", "shop/web")
	g := w.gateways["shop/web"]
	r := Rotator{Gateways: w.client(), Authority: w.first}
	listed := g.pod.DeepCopy()
	w.change(g, func(pod *corev1.Pod) {
		pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.1.8"}}
		pod.Spec.ServiceAccountName = "sa-new"
	})
	if result := r.Rotate(t.Context(), listed); result.Err != nil || len(g.Chain[0].IPAddresses) != 1 {
		t.Errorf("%v, for %v", result.Err, g.Chain[0].IPAddresses)
	}
	// Its gateway still answers for the one that was listed.
	w.asked = nil
	serving := g.pod
	g.pod = g.pod.DeepCopy()
	w.change(g, func(pod *corev1.Pod) { pod.UID = "uid-later" })
	g.pod = serving
	if result := r.Rotate(t.Context(), listed); !errors.Is(result.Err, installed.ErrReplaced) {
		t.Errorf("%v, asked %q", result.Err, w.asked)
	}
}

func TestRotateInTime(t *testing.T) {
	w := newWorld(t, "local", "shop/web")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	r := Rotator{Gateways: w.client(), Authority: w.first}
	expect.Refusal(t, "the error", r.Rotate(ended, w.gateways["shop/web"].pod).Err, nil, "interrupted", "")
	w.step = func(string) error { return context.DeadlineExceeded }
	result := r.Rotate(t.Context(), w.gateways["shop/web"].pod)
	expect.Error(t, result.Err, "no answer within 30s")
}

func TestRotateNearTheAuthoritysEnd(t *testing.T) {
	a := must.Get(ca.New(ca.Options{TTL: time.Hour}))(t)
	w := newWorld(t, "local", "shop/web")
	r := Rotator{Gateways: w.client(), Authority: a, TTL: 24 * time.Hour}
	result := r.Rotate(t.Context(), w.gateways["shop/web"].pod)
	if result.Err != nil || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "authority's") {
		t.Errorf("%+v", result)
	}
}
