package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// settings are the flags of enable and watch that say which gateways are added, and how.
type settings struct {
	authorityFlags
	options   inject.Options
	nodePorts [2]uint16
}

// addFlags registers the flags. delivery is the default of --delivery, and ttl that of --cert-ttl in words.
func (s *settings) addFlags(a *app, f *pflag.FlagSet, delivery inject.Delivery, ttl string) {
	o := &s.options
	s.authorityFlags.add(a, f, "authority-dir")
	s.addGateway(f, api.Permissive)
	addCertTTL(f, &o.TTL, ttl)
	addTimeout(f, &o.Timeout, inject.DefaultTimeout, "how long one pod may take")
	flags.Choice(f, &o.Delivery, "delivery", "", delivery, "how a gateway gets its first certificate", []flags.Word[inject.Delivery]{
		{Value: inject.DeliverySecret, Meaning: "the key is made here and travels in a Secret"},
		{Value: inject.DeliveryCSR, Meaning: "the key is made in the gateway and never leaves it"},
	})
	flags.Choice(f, &o.Existing, "existing", "", api.ExistingReport, "what happens to connections that are open already", []flags.Word[api.Existing]{
		{Value: api.ExistingLeave, Meaning: "they stay, in plaintext"},
		{Value: api.ExistingReport, Meaning: "they stay, are counted and listed"},
		{Value: api.ExistingReset, Meaning: "they are reset, so that applications make new ones"},
	})
}

// addGateway registers the flags that say what a gateway is like, wherever it comes from. mode is the default of
// --mode.
func (s *settings) addGateway(f *pflag.FlagSet, mode api.Mode) {
	o := &s.options
	addImage(f, &o.Image, "image of the gateway")
	addPullPolicy(f, &o.PullPolicy, "the cluster's")
	flags.Choice(f, &o.Mode, "mode", "", mode, "what happens to connections that cannot be encrypted", declared.Modes())
	flags.Choice(f, &o.OnFailure, "on-failure", "", "", "what happens to a pod's connections without its gateway: {} (default open in permissive mode, closed in strict)",
		[]flags.Word[api.OnFailure]{
			{Value: api.FailOpen, Meaning: "they go in plaintext"},
			{Value: api.FailClosed, Meaning: "they fail"},
		})
	addSurveyed(f, &o.Named)
	addRanges(f, &o.Named.Exclude, "exclude-cidr", "address range that is not captured; may be repeated")
	flags.Repeated(f, &o.Named.ExcludePorts, "exclude-port", "ports", "", "destination port that is not captured; may be repeated", flags.Commas, parsePort)
	flags.Choice(f, &o.Wire, "wire", "", api.WireAuto, "how gateways meet", declared.Wires())
	flags.Repeated(f, &o.Rules.Allow, "allow", "stringArray", "", "identity that may connect to the pod, like 'ns/prod/sa/*', or with ports of the pod 'ns/prod/sa/web:8080,9000-9010'; may be repeated (default: everyone in the trust domain)", flags.Whole, parsePattern)
	addDeny(f, &o.Rules)
	flags.Repeated(f, &o.Named.PlaintextFrom, "allow-plaintext-from", "strings", "", "address range whose plaintext connections strict mode accepts, besides those of the pod's own node to ports that it probes; with :8080 behind it, to that port; may be repeated", api.SplitSources, api.ParseSource)
	addOutside(f, &o.Named.Outside, api.OutsideCount)
	f.BoolVar(&o.BlockUDP, "block-udp", false, "refuse UDP to captured ranges in strict mode, except DNS; gateways do not encrypt UDP")
	flags.Parsed(f, &s.nodePorts, "node-ports", "string", defaultNodePorts(), "ports of nodes that belong to Services, empty for none", parsePorts)
	flags.Choice(f, &o.Log, "log", "", api.LogConnections, "which connections the gateway logs", declared.Logs())
	flags.Parsed(f, &o.LogLimit, "log-limit", "quantity", installed.Size(api.DefaultLogLimit), "how much the gateway logs in an hour; what is more is counted", parseLogLimit)
	flags.Parsed(f, &o.MetricsAddr, "metrics-addr", "string", "",
		fmt.Sprintf("serve metrics for Prometheus at this address of each pod, like :%d or 127.0.0.1:%[1]d; in strict mode only gateways and --allow-plaintext-from reach it (default: no port)", api.MetricsPort), parseMetricsAddr)
}

// declaredNames are the flags that annotations stand for, in lines of a help text.
func declaredNames() string {
	var lines []string
	for _, s := range declared.Table() {
		lines = append(lines, s.Annotation())
	}
	return strings.Join(lines, ",\n")
}

// complete returns what the flags say, with the defaults that depend on other flags.
func (s *settings) complete() inject.Options {
	options := s.options
	// Only the in-band wire reaches the pods behind a node port.
	if options.Wire != api.WirePort {
		options.Named.NodePorts = s.nodePorts
	}
	return options
}

// change returns what changes the settings of a gateway to those that the user has given, as
// options have them. given reports whether a flag was.
func (s *settings) change(given func(flag string) bool, options inject.Options) func(*api.Config) {
	return func(c *api.Config) {
		give(c, given, options)
		switch {
		case given("node-ports") || !given("wire"):
		case options.Wire == api.WirePort || c.Named.NodePorts == [2]uint16{}:
			// Which ports of nodes are captured follows from the wire.
			c.Named.NodePorts = options.Named.NodePorts
		}
	}
}

// give changes the settings of a gateway by the flags that are given, as options have them.
func give(c *api.Config, given func(flag string) bool, options inject.Options) {
	for flag, set := range changes(options) {
		if given(flag) {
			set(c)
		}
	}
}

// changes are what flags change of a gateway's settings.
func changes(o inject.Options) map[string]func(*api.Config) {
	return map[string]func(*api.Config){
		"mode":                     func(c *api.Config) { c.Mode = o.Mode },
		"on-failure":               func(c *api.Config) { c.OnFailure = o.OnFailure },
		"wire":                     func(c *api.Config) { c.Wire = o.Wire.OrDefault() },
		"block-udp":                func(c *api.Config) { c.BlockUDP = o.BlockUDP },
		"existing":                 func(c *api.Config) { c.Existing = o.Existing },
		"metrics-addr":             func(c *api.Config) { c.MetricsAddr = o.MetricsAddr },
		"log":                      func(c *api.Config) { c.Log = o.Log },
		"log-limit":                func(c *api.Config) { c.LogLimit = o.LogLimit },
		"allow":                    func(c *api.Config) { c.Allow = o.Rules.Allow },
		"deny":                     func(c *api.Config) { c.Deny = o.Rules.Deny },
		"audit":                    func(c *api.Config) { c.Audit = o.Rules.Audit },
		"max-connections-per-peer": func(c *api.Config) { c.MaxPerPeer = o.Rules.MaxPerPeer },
		"capture-cidr":             func(c *api.Config) { c.Named.Capture = o.Named.Capture },
		"service-cidr":             func(c *api.Config) { c.Named.Services = o.Named.Services },
		"exclude-cidr":             func(c *api.Config) { c.Named.Exclude = o.Named.Exclude },
		"exclude-port":             func(c *api.Config) { c.Named.ExcludePorts = o.Named.ExcludePorts },
		"allow-plaintext-from":     func(c *api.Config) { c.Named.PlaintextFrom = o.Named.PlaintextFrom },
		"outside":                  func(c *api.Config) { c.Named.Outside = o.Named.Outside },
		"node-ports":               func(c *api.Config) { c.Named.NodePorts = o.Named.NodePorts },
	}
}
