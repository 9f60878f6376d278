package main

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
)

// nodeList is a cluster of two nodes, whose Services have a range.
func nodeList(s *apiServer) {
	maps.Copy(s.objects, map[string]string{
		"/api/v1/nodes": `{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"node-1"},"spec":{"podCIDRs":["10.0.1.0/24"]}},
			{"metadata":{"name":"node-2"},"spec":{"podCIDRs":["10.0.2.0/24"]}}]}`,
		"/apis/networking.k8s.io/v1/servicecidrs": `{"kind":"ServiceCIDRList","apiVersion":"networking.k8s.io/v1","items":[{"spec":{"cidrs":["10.96.0.0/16"]}}]}`,
	})
}

func TestRefreshFlags(t *testing.T) {
	named := api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, ExcludePorts: []uint16{22}, NodePorts: [2]uint16{30000, 30100},
		Exclude: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}
	for args, want := range map[string]func(*api.Coverage){
		"":                    func(*api.Coverage) {},
		"--capture-cidr=auto": func(c *api.Coverage) { c.Capture = nil },
		"--capture-cidr=10.0.0.0/9,10.1.1.1": func(c *api.Coverage) {
			c.Capture = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9"), netip.MustParsePrefix("10.1.1.1/32")}
		},
		"--service-cidr=10.97.0.0/16":                       func(c *api.Coverage) { c.Services = []netip.Prefix{netip.MustParsePrefix("10.97.0.0/16")} },
		"--exclude-cidr=none":                               func(c *api.Coverage) { c.Exclude = nil },
		"--exclude-port=53 --exclude-port=80 --node-ports=": func(c *api.Coverage) { c.ExcludePorts, c.NodePorts = []uint16{53, 80}, [2]uint16{} },
		"--allow-plaintext-from=10.0.0.0/8:80,443 --outside=refuse": func(c *api.Coverage) {
			c.PlaintextFrom = []api.Source{{From: netip.MustParsePrefix("10.0.0.0/8"), Ports: api.Ports{{First: 80, Last: 80}, {First: 443, Last: 443}}}}
			c.Outside = api.OutsideRefuse
		},
	} {
		fleet := new(fakegateway.Fleet)
		fleet.Set("web", api.Status{Capture: api.Capture{Coverage: named, Named: named}})
		s := changeServer(&gatewayContainers{})
		s.fleet = fleet
		nodeList(s)
		code, stdout, stderr := s.start(t)(append([]string{"refresh", "web"}, strings.Fields(args)...)...)
		if code != 0 {
			t.Errorf("%s: exit code %d, %s%s", args, code, stdout, stderr)
		}
		expected := named
		want(&expected)
		if diff := cmp.Diff(fmt.Sprint(expected), fmt.Sprint(fleet.Status("web").Capture.Named)); diff != "" {
			t.Errorf("%s: named (-want +got):\n%s", args, diff)
		}
	}
}

// TestRefreshShows what has changed, and nothing else, at the pod.
func TestRefreshShows(t *testing.T) {
	fleet := new(fakegateway.Fleet)
	fleet.Set("web", api.Status{Capture: api.Capture{Coverage: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}}}})
	s := changeServer(&gatewayContainers{})
	s.fleet = fleet
	nodeList(s)
	run := s.start(t)
	for _, step := range []struct {
		args string
		want []string
	}{
		{"refresh web --dry-run=client", nil},
		{"refresh web", []string{"web GatewayChanged: gateway refreshed (2"}},
		{"refresh web", []string{"web GatewayChanged: gateway refreshed (2"}},
		{"refresh imposter", []string{"imposter GatewayFailed: no gateway is here; ", "web GatewayChanged: gateway refreshed (2"}},
	} {
		_, _, stderr := run(strings.Fields(step.args)...)
		if diff := cmp.Diff(step.want, s.events(t)); diff != "" {
			t.Errorf("%s: events (-want +got):\n%s%s", step.args, diff, stderr)
		}
	}
}

func TestRefreshesThatMakeNoSense(t *testing.T) {
	var g gatewayContainers
	fails(t, changeServer(&g).start(t), 1, map[string]string{
		"refresh": "no pod is named", "refresh web --capture-cidr=auto,10.0.0.0/8": `"auto" is not an address range`,
		"refresh web --capture-cidr=10.0.0.0/8 --capture-cidr=auto": "stands alone", "refresh web --exclude-cidr=none --exclude-cidr=10.0.0.0/8": "stands alone",
		"refresh web --dry-run=server": "unknown", "refresh web --exclude-port=auto": "is not a port", "refresh --all": "needs a confirmation",
	})
	if len(g.commands) != 0 {
		t.Errorf("gateways were asked: %q", g.commands)
	}
}

// TestCarriedCoverage: a change of something else brings the coverage along, and says so.
func TestCarriedCoverage(t *testing.T) {
	old := api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}, Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
	for args, want := range map[string]string{
		"mode web strict":      "pod/web: what it captures was refreshed (1 added: 10.0.2.0/24 (pods of node node-2))\n",
		"allow web --everyone": "pod/web: what it captures was refreshed (1 added: 10.0.2.0/24 (pods of node node-2))\n",
		"mode web permissive":  "",
	} {
		for _, forbid := range []bool{false, true} {
			fleet := new(fakegateway.Fleet)
			fleet.Set("web", api.Status{Capture: api.Capture{Coverage: old}})
			s := changeServer(&gatewayContainers{})
			s.fleet = fleet
			nodeList(s)
			if forbid && want != "" {
				s.objects["/api/v1/nodes"] = forbidden
				want = "warning: what gateways capture is not brought up to date: listing nodes"
			}
			code, _, stderr := s.start(t)(strings.Fields(args)...)
			if code != 0 || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") > 1 {
				t.Errorf("%s: exit code %d, %q, want %q", args, code, stderr, want)
			}
		}
	}
}
