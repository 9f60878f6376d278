//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// TestMain lets the test binary be the gateway: the supervisor starts its worker from
// the same file.
func TestMain(m *testing.M) {
	netlab.Helpers{"spy": spy, "reader": reader, "marker": marker, "callers": callers}.Run()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "supervise", "loader", "worker", "exporter", "ctl", "clean", "packets", "probe":
			tellsUse()
			os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		case "hold":
			os.Exit(hold(os.Args[2:]))
		case "small":
			os.Exit(small(os.Args[2:]))
		case "datagram":
			os.Exit(datagram(os.Args[2:]))
		}
	}
	// A list of the tests needs nothing.
	flag.Parse()
	if os.Getenv(appVariable) != "" || flag.Lookup("test.list").Value.String() != "" {
		os.Exit(m.Run())
	}
	os.Exit(withApp(m.Run))
}

// withApp runs tests that have the application, built once for all of them.
func withApp(run func() int) int {
	dir, err := os.MkdirTemp("", "kube-gateway-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	app := filepath.Join(dir, "app")
	build := exec.Command("go", "build", "-o", app, "../../test/e2e/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the application: %v\n%s", err, out)
		return 1
	}
	os.Setenv(appVariable, app)
	return run()
}

// patience bounds every wait. It is no expectation: each wait ends with its
// condition.
const patience = time.Minute

// appVariable names the environment variable with the path of test/e2e/app. Where it is set already
// there may be no Go to build it.
const appVariable = "KUBE_GATEWAY_TEST_APP"

// Ports of test/e2e/app.
const (
	portEcho        = 9000
	portServerFirst = 9001
	portHTTP        = 9080
)

// lab is two pods, each with the test application and perhaps a gateway.
type lab struct {
	t   *testing.T
	net *netlab.Lab
	// self is this program, which is the gateway, and app the application.
	self, app string
	authority *ca.Authority
	a, b      *netlab.Node
}

func newLab(t *testing.T) *lab {
	t.Helper()
	return newLabOf(t, 2)
}

// newLabOf returns a lab of n pods, at least two. The test runs beside others: it mostly waits, and
// shares nothing with them.
func newLabOf(t *testing.T, n int) *lab {
	t.Helper()
	t.Parallel()
	l := &lab{t: t, net: netlab.New(t, n), app: os.Getenv(appVariable)}
	l.a, l.b = l.net.Node(0), l.net.Node(1)
	l.self = must.Get(os.Executable())(t)
	l.authority = must.Get(gatewaylab.NewAuthority())(t)
	for _, n := range l.net.Nodes() {
		server := n.Start(netlab.Command{Cgroup: n.AppCgroup, Path: l.app, Args: []string{"serve"}})
		says(t, server, "serving")
	}
	return l
}

func (l *lab) spec(n *netlab.Node) gatewaylab.Spec {
	l.t.Helper()
	return gatewaylab.Spec{Node: n, Program: l.self, Authority: l.authority, Dir: l.t.TempDir()}
}

// gateway starts a gateway and fails the test if it does not get ready.
func (l *lab) gateway(s gatewaylab.Spec) *gatewaylab.Gateway {
	l.t.Helper()
	g := must.Get(gatewaylab.Start(l.t.Context(), s))(l.t)
	l.t.Cleanup(g.Stop)
	return g
}

// fails launches a gateway that must end with an error, for which words stand in its output.
func (l *lab) fails(what string, s gatewaylab.Spec, words ...string) *gatewaylab.Gateway {
	l.t.Helper()
	g := must.Get(gatewaylab.Launch(s))(l.t)
	if err := ended(l.t, g); err == nil {
		l.t.Errorf("%s it works", what)
	}
	for _, word := range words {
		if !strings.Contains(g.Output(), word) {
			l.t.Errorf("%s it does not say %q: %s", what, word, g.Output())
		}
	}
	return g
}

// result is what the application's clients print.
type result = appreport.Result

// client runs a client of the application in a pod.
func (l *lab) client(n *netlab.Node, cgroup string, args ...string) result {
	l.t.Helper()
	return l.result(n.Start(netlab.Command{Cgroup: cgroup, Path: l.app, Args: args}))
}

// result waits for a client and returns what it says.
func (l *lab) result(p *netlab.Process) result {
	l.t.Helper()
	if err := p.Wait(); err != nil {
		l.t.Fatalf("client: %v\n%s", err, p.Output())
	}
	var r result
	if err := json.Unmarshal([]byte(p.Output()), &r); err != nil {
		l.t.Fatalf("client: %v in %q", err, p.Output())
	}
	return r
}

// talk runs an echo that must work.
func (l *lab) talk(n *netlab.Node, address string) result {
	l.t.Helper()
	r := l.client(n, n.AppCgroup, "talk", address, "hello")
	if r.Error != "" || r.Received != "hello\n" {
		l.t.Fatalf("talking to %s: %+v", address, r)
	}
	return r
}

// refused runs an echo that must not work.
func (l *lab) refused(n *netlab.Node, address, when string) {
	l.t.Helper()
	if r := l.client(n, n.AppCgroup, "talk", address, "hello"); r.Error == "" || r.Received != "" {
		l.t.Errorf("%s: %s answers: %+v", when, address, r)
	}
}

func status(t *testing.T, g *gatewaylab.Gateway) *api.Status {
	t.Helper()
	s, err := g.Status(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatalf("status: %v\n%s", err, g.Output())
	}
	return s
}

// tryAsk runs 'kube-gateway ctl' as the plugin does, and returns the gateway's answer.
func tryAsk[T any](t *testing.T, g *gatewaylab.Gateway, stdin io.Reader, args ...string) (*T, error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	args = slices.Concat([]string{"ctl"}, args, []string{"-o", "json", "--control-socket", g.Socket()})
	if code := run(args, stdin, &stdout, &stderr); code != 0 {
		return nil, errors.New(stderr.String())
	}
	var answer T
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		t.Fatalf("%q: %v in %q", args, err, stdout.String())
	}
	return &answer, nil
}

// ask is tryAsk for what must succeed.
func ask[T any](t *testing.T, g *gatewaylab.Gateway, args ...string) *T {
	t.Helper()
	answer, err := tryAsk[T](t, g, nil, args...)
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, g.Output())
	}
	return answer
}

// awaitStatus waits until a gateway's status fits.
func awaitStatus(t *testing.T, g *gatewaylab.Gateway, what string, fits func(*api.Status) bool) {
	t.Helper()
	eventually(t, what, func() error {
		if s := status(t, g); !fits(s) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// says waits until a process has printed a text.
func says(t *testing.T, p *netlab.Process, text string) {
	t.Helper()
	eventually(t, "a process says "+text, func() error {
		if out := p.Output(); !strings.Contains(out, text) {
			return fmt.Errorf("it says %q", out)
		}
		return nil
	})
}

// connection returns the one line of a gateway's log that accept accepts.
func connection(t *testing.T, g *gatewaylab.Gateway, what string, accept func(*api.Connection) bool) api.Connection {
	t.Helper()
	var found api.Connection
	eventually(t, "the log line of "+what, func() error {
		all, err := g.Connections()
		if err != nil {
			return err
		}
		for _, c := range all {
			if accept(&c) {
				found = c
				return nil
			}
		}
		return fmt.Errorf("it is not among %d: %+v", len(all), all)
	})
	return found
}

func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// pause stops a process, and returns when none of its threads runs: a signal takes a moment to arrive.
func pause(t *testing.T, pid int) {
	t.Helper()
	must.Do(t, syscall.Kill(pid, syscall.SIGSTOP))
	eventually(t, "a process stands still", func() error {
		for _, thread := range must.Get(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid)))(t) {
			// A thread may have ended.
			if text, err := os.ReadFile(thread); err == nil && !strings.Contains(string(text), "\nState:\tT ") {
				return fmt.Errorf("%s: %s", thread, text)
			}
		}
		return nil
	})
}

func addrPort(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	a := must.Get(netip.ParseAddrPort(text))(t)
	return a
}
