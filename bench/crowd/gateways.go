//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/execstreams"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// gateways are those that run. They keep what they are told.
type gateways struct {
	mu       sync.Mutex
	statuses map[remote.Ref]*api.Status
	// ports are those for the status, of pods whose gateways have a certificate.
	ports map[types.NamespacedName]port
	// started counts the gateways of a pod.
	started map[types.UID]int
	// commands counts the control commands by name.
	commands map[string]int
	// certified is when each got its certificates.
	certified map[remote.Ref][]time.Time
}

// port shows a certificate and tells the status of a gateway.
type port struct {
	gateway     remote.Ref
	certificate tls.Certificate
}

func newGateways() *gateways {
	return &gateways{statuses: map[remote.Ref]*api.Status{}, ports: map[types.NamespacedName]port{}, started: map[types.UID]int{}, commands: map[string]int{}, certified: map[remote.Ref][]time.Time{}}
}

// start starts a gateway with its environment.
func (g *gateways) start(pod *corev1.Pod, container string, env map[string][]byte) error {
	config, err := api.ParseConfig(env[api.EnvConfig])
	if err != nil {
		return err
	}
	status := &api.Status{
		Version: "crowd", State: api.Uncertified, StartedAt: time.Now(), Pod: config.Pod, PodIPs: config.PodIPs,
		Mode: config.Mode, OnFailure: config.OnFailure, Wire: config.Wire, Rules: config.Rules,
		Capture: api.Capture{Coverage: config.Coverage, Fingerprint: config.Fingerprint(), Named: config.Named},
	}
	m, err := materialOf(env)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	ref := remote.Ref{Namespace: pod.Namespace, Pod: pod.Name, Container: container}
	g.statuses[ref] = status
	g.started[pod.UID]++
	if m != nil {
		g.certify(ref, m)
	}
	return nil
}

// materialOf returns what a Secret has brought, or nil.
func materialOf(env map[string][]byte) (*fakegateway.Material, error) {
	if len(env[api.EnvCert]) == 0 {
		return nil, nil
	}
	var m fakegateway.Material
	var err error
	if m.Chain, err = ca.ParseCertificates(env[api.EnvCert]); err != nil {
		return nil, err
	}
	if m.Roots, err = ca.ParseCertificates(env[api.EnvCA]); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(env[api.EnvCert], env[api.EnvKey])
	if err != nil {
		return nil, err
	}
	m.Key = pair.PrivateKey.(*ecdsa.PrivateKey)
	return &m, nil
}

// certify gives a gateway m. The caller holds mu.
func (g *gateways) certify(ref remote.Ref, m *fakegateway.Material) {
	status := g.statuses[ref]
	status.State, status.Cert = api.Ready, m.Certificate()
	g.certified[ref] = append(g.certified[ref], time.Now())
	shown := tls.Certificate{PrivateKey: m.Key}
	for _, c := range slices.Concat(m.Chain, m.Roots) {
		shown.Certificate = append(shown.Certificate, c.Raw)
	}
	g.ports[types.NamespacedName{Namespace: ref.Namespace, Name: ref.Pod}] = port{ref, shown}
}

// serveStatus is the port for the status of a pod's gateway.
func (g *gateways) serveStatus(pod types.NamespacedName, conn net.Conn) {
	defer conn.Close()
	g.mu.Lock()
	at, ok := g.ports[pod]
	g.mu.Unlock()
	if !ok {
		return
	}
	conn = tls.Server(conn, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{at.certificate}, NextProtos: []string{api.ALPNStatus}})
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		return
	}
	g.mu.Lock()
	var status *api.Status
	if found := g.statuses[at.gateway]; found != nil {
		status = g.now(found)
	}
	g.commands["status"]++
	g.mu.Unlock()
	_ = json.NewEncoder(conn).Encode(map[string]any{"result": status})
}

func (g *gateways) forget(pod types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.started, pod)
	for ref, status := range g.statuses {
		if status.Pod.UID == string(pod) {
			delete(g.statuses, ref)
			delete(g.certified, ref)
			delete(g.ports, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Pod})
		}
	}
}

func (g *gateways) runs(ref remote.Ref) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.statuses[ref] != nil
}

// count returns how many gateways are as is says.
func (g *gateways) count(is func(*api.Status) bool) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, status := range g.statuses {
		if is(status) {
			n++
		}
	}
	return n
}

// times returns when the gateways got their first, second, … certificate: a list for each, in order.
func (g *gateways) times() (rounds [][]time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, times := range g.certified {
		for i, at := range times {
			if i == len(rounds) {
				rounds = append(rounds, nil)
			}
			rounds[i] = append(rounds[i], at)
		}
	}
	for _, times := range rounds {
		slices.SortFunc(times, time.Time.Compare)
	}
	return rounds
}

// doubled returns how many pods have had more than one gateway.
func (g *gateways) doubled() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, started := range g.started {
		if started > 1 {
			n++
		}
	}
	return n
}

// told returns how often each control command has come, and forgets it.
func (g *gateways) told() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	told := g.commands
	g.commands = map[string]int{}
	return told
}

// run runs a command in a container.
func (g *gateways) run(ctx context.Context, ref remote.Ref, stdin io.Reader, stdout, stderr io.Writer, command []string) metav1.Status {
	err := fakegateway.Gateways(g.answer).Run(ctx, ref, stdin, stdout, command...)
	var exit *remote.ExitError
	switch {
	case err == nil:
		return execstreams.Exit(0)
	case errors.As(err, &exit):
		_, _ = io.WriteString(stderr, exit.Stderr)
		return execstreams.Exit(exit.Code)
	}
	fmt.Fprintln(stderr, "error:", err)
	return execstreams.Exit(1)
}

// answer is a fakegateway.Gateways.
func (g *gateways) answer(_ context.Context, call *fakegateway.Call) (any, error) {
	if call.Op() == "renew" {
		return g.renew(call)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.commands[call.Op()]++
	status := g.statuses[call.Ref]
	switch {
	case status == nil:
		return nil, fakegateway.Refuse("no gateway is here")
	case call.Op() == "cover":
		var cover api.Cover
		if err := call.Read(&cover); err != nil {
			return nil, err
		}
		if cover.Seen != status.Capture.Named.Fingerprint() {
			return nil, fakegateway.Refuse("what is named of the coverage has changed meanwhile")
		}
		status.Capture.Coverage, status.Capture.Named, status.Capture.Fingerprint = cover.Coverage, cover.Named, cover.Coverage.Fingerprint()
	case call.Op() != "status":
		return nil, fakegateway.Refuse("unknown control command " + call.Op())
	}
	return g.now(status), nil
}

func (g *gateways) now(status *api.Status) *api.Status {
	answer := *status
	answer.Time = time.Now()
	return &answer
}

// renew has a certificate issued while other gateways answer.
func (g *gateways) renew(call *fakegateway.Call) (any, error) {
	m, err := call.Renew()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.commands[call.Op()]++
	status := g.statuses[call.Ref]
	switch {
	case err != nil:
		return nil, fakegateway.Refuse(err.Error())
	case status == nil:
		return nil, fakegateway.Refuse("no gateway is here")
	}
	g.certify(call.Ref, &m)
	return g.now(status), nil
}
