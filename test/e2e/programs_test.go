//go:build e2e

package e2e

import (
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// programs are known programs in pod a, which connect to pods that live, refuse or do not answer.
type programs struct {
	t      *testing.T
	a, b   *inside
	to     map[string]string // addresses by the names that outcomes have
	socket string            // of HAProxy
	// psqlProgram is psql itself: Debian's psql on PATH is a script that looks for one.
	psqlProgram string
}

// TestKnownPrograms has HAProxy, curl, psql and iperf3 meet servers that live, refuse and do not answer: without
// gateways, and with gateways on both wires. What they say is the same.
func TestKnownPrograms(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	idle := podSpec("closed", node2)
	idle.Spec.Containers[0].Command = []string{"/app", "sleep"}
	pods := startPods(t, ns, podSpec("a", node1), podSpec("b", node2), idle)
	a, b, closed := pods[0], pods[1], pods[2]
	apply(t, ns, `
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  selector: {app: nobody}
  ports: [{port: 9080}]
`)
	p := &programs{t: t, a: a.enter(t), b: b.enter(t), socket: filepath.Join(t.TempDir(), "haproxy"), to: map[string]string{
		// The first address of a node's range is the node's, not a pod's.
		"dead": "10.244.2.1", "dead6": "fd00:10:244:2:ffff::3",
		"live": b.ips[0].String(), "live6": b.ips[1].String(), "closed": closed.ips[0].String(), "closed6": closed.ips[1].String(),
		"nobody": kubectl(t, "-n", ns, "get", "service", "nobody", "-o", "jsonpath={.spec.clusterIP}"),
	}}
	psql := must.Get(filepath.Glob("/usr/lib/postgresql/*/bin/psql"))(t)
	if len(psql) == 0 {
		t.Fatal("there is no psql: 'make tools' installs it")
	}
	p.psqlProgram = psql[len(psql)-1]
	newNodeRoutes(t).add(node1, "blackhole %s", netip.MustParseAddr(p.to["dead"]), netip.MustParseAddr(p.to["dead6"]))

	want := map[string]string{
		"haproxy, server live":     "UP L4OK",
		"haproxy, server closed":   "DOWN L4CON",
		"haproxy, server dead":     "DOWN L4TOUT",
		"curl through haproxy":     "200",
		"curl to live":             "200 from live",
		"curl to closed":           "exit 7",  // "failed to connect to host"
		"curl to dead":             "exit 28", // "operation timeout"
		"curl to nobody":           "exit 7",
		"curl to closed,live":      "200 from live",
		"curl to dead,live":        "200 from live",
		"curl to closed6,live":     "200 from live",
		"curl to dead6,live":       "200 from live",
		"curl to live6,live":       "200 from live6",
		"psql to live":             "ANSWERED",
		"psql to closed":           "Connection refused",
		"psql to dead":             "timeout expired",
		"psql to nobody":           "Connection refused",
		"psql to closed,live":      "ANSWERED",
		"psql to dead,live":        "ANSWERED",
		"psql to closed6,live":     "ANSWERED",
		"iperf3, DSCP on the wire": "yes",
	}
	for _, flags := range [][]string{nil, {"--wire=port"}, {"--replace", "--wire=inband"}} {
		if flags != nil {
			enable(t, flags, pods...)
		}
		if diff := gocmp.Diff(want, p.outcomes(want)); diff != "" {
			t.Errorf("with gateways %q (-want +got):\n%s", flags, diff)
		}
	}
}

// outcomes runs all programs and returns what they said. What is not wanted gets further tries, as a busy
// machine makes timeouts expire.
func (p *programs) outcomes(want map[string]string) map[string]string {
	found := make(map[string]string)
	var mu sync.Mutex
	var all sync.WaitGroup
	for what, wanted := range want {
		program, to, _ := strings.Cut(what, " to ")
		run := map[string]func(to string) string{"curl": p.curl, "psql": p.psql}[program]
		if run == nil {
			continue
		}
		all.Go(func() {
			said := run(to)
			for try := 0; try < 3 && said != wanted; try++ {
				said = run(to)
			}
			mu.Lock()
			defer mu.Unlock()
			found[what] = said
		})
	}
	more := p.haproxy()
	maps.Copy(more, p.iperf())
	all.Wait()
	maps.Copy(found, more)
	return found
}

// run runs a program to its end in pod a, and returns what it said.
func (p *programs) run(args ...string) (said string, code int) {
	cmd := p.a.native(args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return strings.TrimSpace(string(out)), cmd.ProcessState.ExitCode()
}

// addresses returns those that a list of names stands for.
func (p *programs) addresses(names string) string {
	var all []string
	for name := range strings.SplitSeq(names, ",") {
		all = append(all, p.to[name])
	}
	return strings.Join(all, ",")
}

func (p *programs) curl(to string) string {
	timeout := "8"
	if to == "dead" {
		timeout = "2"
	}
	said, code := p.run("curl", "--silent", "--output", "/dev/null", "--noproxy", "*", "--connect-timeout", timeout,
		"--write-out", "%{http_code} %{remote_ip}", "--resolve", "server:9080:"+p.addresses(to), "http://server:9080/")
	if code != 0 {
		return fmt.Sprint("exit ", code)
	}
	status, from, _ := strings.Cut(said, " ")
	for name, address := range p.to {
		if address == from {
			from = name
		}
	}
	return status + " from " + from
}

func (p *programs) psql(to string) string {
	said, _ := p.run(p.psqlProgram, "--no-psqlrc", "--command=question",
		"host="+p.addresses(to)+" port=9004 user=e2e dbname=e2e connect_timeout=2 sslmode=disable gssencmode=disable")
	// An error says what the connection was to, and may have a hint below.
	said, _, _ = strings.Cut(said, "\n")
	if _, why, ok := strings.Cut(said, " failed: "); ok {
		return why
	}
	return said
}

// haproxy checks three servers by connecting to them, and is a client's way to those that are up.
func (p *programs) haproxy() map[string]string {
	config := filepath.Join(p.t.TempDir(), "haproxy.cfg")
	must.Do(p.t, os.WriteFile(config, fmt.Appendf(nil, `
global
  stats socket %s
defaults
  mode tcp
  timeout connect 4s
  timeout client 60s
  timeout server 60s
listen servers
  bind 127.0.0.1:9100
  default-server check inter 1s fall 2 rise 2
  timeout check 2s
  server closed %s:9081
  server dead %s:9080
  server live %s:9080
`, p.socket, p.to["live"], p.to["dead"], p.to["live"]), 0o644))
	cmd := p.a.native("haproxy", "-db", "-f", config)
	var said lockedBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	must.Do(p.t, cmd.Start())
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	want := map[string]string{"live": "UP L4OK", "closed": "DOWN L4CON", "dead": "DOWN L4TOUT"}
	var states map[string]string
	eventually(p.t, "HAProxy has checked its servers", func() error {
		var err error
		if states, err = p.states(); err != nil {
			return fmt.Errorf("%w: %s", err, said.String())
		}
		for server, state := range want {
			if states[server] != state {
				return fmt.Errorf("%v", states)
			}
		}
		return nil
	})
	found := make(map[string]string)
	for server, state := range states {
		found["haproxy, server "+server] = state
	}
	found["curl through haproxy"], _ = p.run("curl", "--silent", "--output", "/dev/null", "--noproxy", "*", "--write-out", "%{http_code}", "http://127.0.0.1:9100/")
	return found
}

// states returns what HAProxy thinks of its servers, and why.
func (p *programs) states() (map[string]string, error) {
	conn, err := net.Dial("unix", p.socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "show stat\n"); err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(conn).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("no statistics: %w", err)
	}
	states := make(map[string]string)
	for _, row := range rows[1:] {
		column := make(map[string]string)
		for i, name := range rows[0] {
			column[name] = row[i]
		}
		if name := column["svname"]; name != "FRONTEND" && name != "BACKEND" {
			states[name] = column["status"] + " " + column["check_status"]
		}
	}
	return states, nil
}

// iperf sends for a moment with a mark for the network, and looks for it there.
func (p *programs) iperf() map[string]string {
	server := p.b.native("iperf3", "--server", "--port=9101")
	var said lockedBuffer
	server.Stdout, server.Stderr = &said, &said
	must.Do(p.t, server.Start())
	defer func() {
		server.Process.Kill()
		server.Wait()
	}()
	recorded := record(p.t, p.a.pod, p.b.pod)
	eventually(p.t, "iperf3 has sent and received", func() error {
		if client, code := p.run("iperf3", "--client", p.to["live"], "--port=9101", "--dscp=af41", "--bytes=100K"); code != 0 {
			return fmt.Errorf("exit %d: %s\nserver: %s", code, client, said.String())
		}
		return nil
	})
	recorded.stop()
	// Class 4, drop precedence 1: RFC 2597.
	marked := "no"
	if recorded.count(fmt.Sprintf("tcp and src %s and dst %s and ip[1] & 0xfc = 0x88", p.a.ips[0], p.b.ips[0])) > 0 {
		marked = "yes"
	}
	return map[string]string{"iperf3, DSCP on the wire": marked}
}
