package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/disable"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signing"
	buildversion "github.com/kubectl-gateway/kubectl-gateway/internal/version"
)

// Values that several flags and arguments take.

// parseLogLimit reads a number of bytes as Kubernetes writes them. Empty leaves the limit.
func parseLogLimit(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := resource.ParseQuantity(text)
	switch bytes, whole := n.AsInt64(); {
	case err != nil || !whole:
		return 0, api.WithHint(fmt.Errorf("%q is not a number of bytes", text), "write it like 64Mi")
	case bytes < api.MinLogLimit:
		return 0, fmt.Errorf("%q is less than %s", text, installed.Size(api.MinLogLimit))
	default:
		return bytes, nil
	}
}

// addOutput registers -o/--output. value is the default, formats are the verb's own besides the
// templates, which all of them have.
func addOutput(f *pflag.FlagSet, p *string, value string, formats ...string) {
	flags.Format(f, p, value, flags.Words(formats...), output.Templates()...)
}

func addDryRun(f *pflag.FlagSet, p *installed.DryRun, server string) {
	flags.Choice(f, p, "dry-run", "", installed.DryRunNone, "dry run instead of changes", []flags.Word[installed.DryRun]{
		{Value: installed.DryRunNone, Text: "none"},
		{Value: installed.DryRunClient, Meaning: "only look"},
		{Value: installed.DryRunServer, Meaning: server},
	})
}

func addImage(f *pflag.FlagSet, p *string, usage string) {
	flags.Parsed(f, p, "image", "string", installed.DefaultImage(buildversion.String()), usage, func(text string) (string, error) {
		if text == "" {
			return "", errors.New("the name is empty")
		}
		return text, nil
	})
}

// addPullPolicy registers --image-pull-policy. otherwise names the default.
func addPullPolicy(f *pflag.FlagSet, p *corev1.PullPolicy, otherwise string) {
	flags.Choice(f, p, "image-pull-policy", "", "", "pull policy of the image: {} (default: "+otherwise+")",
		flags.Words(corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever))
}

func addTimeout(f *pflag.FlagSet, p *time.Duration, value time.Duration, usage string) {
	flags.Duration(f, p, "timeout", value, flags.Positive, usage)
}

func addDrainTimeout(f *pflag.FlagSet, p *time.Duration, usage string) {
	flags.Duration(f, p, "drain-timeout", disable.DefaultDrainTimeout, flags.NotNegative, usage)
}

func addParallel(f *pflag.FlagSet, p *int) {
	flags.Int(f, p, "parallel", parallel.Default, flags.Positive, "how many pods to work on at a time")
}

func addAuthorityDir(f *pflag.FlagSet, p *string, name string) {
	f.StringVar(p, name, "", "directory of the authority (default $"+authority.EnvDir+", or one for each cluster)")
	flags.Dirs(f, name)
}

// days writes a lifetime as --cert-ttl takes it.
func days(d time.Duration) string { return fmt.Sprintf("%dd", d/(24*time.Hour)) }

// addCertTTL registers --cert-ttl. standard is its default in words.
func addCertTTL(f *pflag.FlagSet, p *time.Duration, standard string) {
	flags.Parsed(f, p, "cert-ttl", "string", "", fmt.Sprintf("how long the pods' certificates are valid, like 12h or 30d (default %s; where a signer issues them, its own choice)", standard), parseLifetime)
}

func addRanges(f *pflag.FlagSet, p *[]netip.Prefix, name, usage string) {
	flags.Repeated(f, p, name, "strings", "", usage, flags.Commas, parseRange)
}

func addOutside(f *pflag.FlagSet, p *api.Outside, value api.Outside) {
	flags.Choice(f, p, "outside", "", value, "what strict mode does with connections into private address space outside of the cluster's ranges", []flags.Word[api.Outside]{
		{Value: api.OutsideCount, Meaning: "they go in plaintext and are counted"},
		{Value: api.OutsideRefuse, Meaning: "they fail"},
	})
}

// addSurveyed registers the flags whose defaults a survey of the cluster finds.
func addSurveyed(f *pflag.FlagSet, given *api.Coverage) {
	addRanges(f, &given.Capture, "capture-cidr", "address range of pods to encrypt; may be repeated (default: found in the cluster)")
	addRanges(f, &given.Services, "service-cidr", "address range of Services; may be repeated (default: found in the cluster)")
}

// parseRange reads a CIDR range, or an address as a range of one.
func parseRange(text string) (netip.Prefix, error) {
	source, err := api.ParseSource(text)
	if err != nil || len(source.Ports) > 0 {
		return netip.Prefix{}, api.WithHint(fmt.Errorf("%q is not an address range", text), "write it like 10.244.0.0/16")
	}
	return source.From, nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", text)
	}
	return uint16(port), nil
}

// parsePorts reads a range of ports, in the syntax of kube-apiserver's
// --service-node-port-range, or one port. The empty text is no port.
func parsePorts(text string) ([2]uint16, error) {
	if text == "" {
		return [2]uint16{}, nil
	}
	ports, err := api.ParsePorts(text)
	if err != nil || strings.Contains(text, ",") {
		return [2]uint16{}, api.WithHint(fmt.Errorf("%q is not a port range", text), "write it like "+defaultNodePorts())
	}
	return [2]uint16{ports[0].First, ports[0].Last}, nil
}

func defaultNodePorts() string {
	ports := api.DefaultNodePorts()
	return fmt.Sprintf("%d-%d", ports[0], ports[1])
}

// addDeny registers the flags of identity rules but for those that allow.
func addDeny(f *pflag.FlagSet, rules *api.Rules) {
	flags.Repeated(f, &rules.Deny, "deny", "stringArray", "", "identity that may not connect to the pod, whoever is allowed; with ports as for the identities that may; may be repeated", flags.Whole, parsePattern)
	f.BoolVar(&rules.Audit, "audit", false, "log and count connections that the rules would refuse, and let them in")
	flags.Int(f, &rules.MaxPerPeer, "max-connections-per-peer", 0, flags.NotNegative, "refuse further connections of an identity that has so many open to the pod; 0 is no bound")
}

// parsePattern checks an identity rule.
func parsePattern(text string) (string, error) {
	_, err := api.ParseRule(text)
	return text, err
}

// parseMetricsAddr checks an address for metrics, or none.
func parseMetricsAddr(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	_, err := api.ParseMetricsAddr(text)
	return text, err
}

// addSign registers the flag that names the signer of watch.
func addSign(f *pflag.FlagSet, p *string, usage string) {
	flags.Parsed(f, p, "sign", "string", "", usage, func(name string) (string, error) { return name, signing.CheckName(name) })
}
