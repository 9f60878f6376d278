package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	buildversion "github.com/kubectl-gateway/kubectl-gateway/internal/version"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// dryRunNone is kubectl's word for a run that is no dry run.
const dryRunNone = "none"

// enableOptions are the flags of enable.
type enableOptions struct {
	targets      targets.Flags
	confirm      confirmation
	image        string
	pullPolicy   string
	mode         string
	onFailure    string
	certTTL      string
	timeout      time.Duration
	parallel     int
	captureCIDR  []string
	serviceCIDR  []string
	excludeCIDR  []string
	excludePort  []uint
	wire         string
	allow        []string
	plainFrom    []string
	blockUDP     bool
	nodePorts    string
	authorityDir string
	keepSecret   bool
	delivery     string
	existing     string
	metricsAddr  string
	dryRun       string
	output       string
}

func newEnableCommand(a *app) *cobra.Command {
	return newEnableCommandFor(a, &enableOptions{})
}

// newEnableCommandFor returns the command that stores its flags in o.
func newEnableCommandFor(a *app, o *enableOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enable (TARGET... | -f FILE | -l SELECTOR | --all)",
		Short: "Add gateways to running pods",
		Long: `Adds a gateway to each of the pods, which go on running, and waits until it is
ready. From then on new connections between pods with gateways are encrypted,
whether they are made to the pods' addresses or to Services.

A target is pod/NAME, a pod's name alone, or a workload, which means the pods that
it has now: deploy/NAME, sts/NAME, ds/NAME, rs/NAME, job/NAME, cronjob/NAME, and
svc/NAME for the pods behind a Service. Files name pods and workloads as well.
Pods that a workload makes later get no gateway by themselves: see 'watch'.

Pods that have a working gateway are left alone; one whose gateway has died or was
disabled gets another. One pod's failure does not stop the others; the exit code
is 1 then.

Connections that are open already stay as they are, in plaintext, and are counted
and listed. With --existing=reset they are closed, also in pods that have a
gateway, so that the applications make new ones, which are encrypted.`,
		Example: `  # Two pods
  kubectl gateway enable pod/web-0 pod/db-0

  # The pods that a Deployment and a StatefulSet have now
  kubectl gateway enable deploy/web sts/db

  # The pods of what a directory of manifests describes
  kubectl gateway enable -f manifests/ -R

  # All pods of the cluster, without being asked
  kubectl gateway enable --all -A --yes

  # All pods with a label, refusing what cannot be encrypted
  kubectl gateway enable -l app=web --mode=strict

  # Only pods of namespace prod may connect
  kubectl gateway enable pod/db-0 --mode=strict --allow='ns/prod/sa/*'

  # Metrics at a port of the pod, for Prometheus
  kubectl gateway enable deploy/web --metrics-addr=:18445

  # No key ever reaches the API server, and no right to Secrets is needed
  kubectl gateway enable pod/web-0 --delivery=csr

  # What would be created, tried by the server, without keys
  kubectl gateway enable pod/web-0 --dry-run=server -o yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			options, given, err := o.complete()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), a, options, given, args)
		},
	}
	f := cmd.Flags()
	o.targets.AddFlags(f)
	o.targets.AddAllNamespacesFlag(f)
	o.confirm.addFlag(f)
	o.addSettings(f, inject.DeliverySecret)
	f.BoolVar(&o.keepSecret, "keep-secret", false, "keep the Secret with the pod's key after the gateway has read it")
	f.StringVar(&o.dryRun, "dry-run", dryRunNone, "change nothing: 'client' only looks, 'server' has the server try it")
	f.StringVarP(&o.output, "output", "o", "", "output format: name, json or yaml")
	return cmd
}

// addSettings registers the flags that say what gateways are added, and how. They
// get their first certificate by delivery if nothing else is asked for.
func (o *enableOptions) addSettings(f *pflag.FlagSet, delivery inject.Delivery) {
	f.StringVar(&o.image, "image", installed.DefaultImage(buildversion.String()), "image of the gateway")
	f.StringVar(&o.pullPolicy, "image-pull-policy", "", "pull policy of the image: Always, IfNotPresent or Never (default: the cluster's)")
	f.StringVar(&o.mode, "mode", string(api.Permissive), "connections that cannot be encrypted go in plaintext (permissive) or are refused (strict)")
	f.StringVar(&o.onFailure, "on-failure", "", "without its gateway a pod connects in plaintext (open) or not at all (closed) (default open in permissive mode, closed in strict)")
	f.StringVar(&o.certTTL, "cert-ttl", fmt.Sprintf("%dd", ca.DefaultLeafTTL/(24*time.Hour)), "how long the pods' certificates are valid, like 12h or 30d")
	f.DurationVar(&o.timeout, "timeout", inject.DefaultTimeout, "how long one pod may take")
	f.IntVar(&o.parallel, "parallel", parallel.Default, "how many pods are worked on at a time")
	f.StringSliceVar(&o.captureCIDR, "capture-cidr", nil, "range of pod addresses to encrypt; may be repeated (default: found in the cluster)")
	f.StringSliceVar(&o.serviceCIDR, "service-cidr", nil, "range of Service addresses; may be repeated (default: found in the cluster)")
	f.StringSliceVar(&o.excludeCIDR, "exclude-cidr", nil, "range of addresses to leave alone; may be repeated")
	f.UintSliceVar(&o.excludePort, "exclude-port", nil, "destination port to leave alone; may be repeated")
	f.StringVar(&o.wire, "wire", api.WireAuto, "how gateways meet: 'port' is a port of the peer's own, 'inband' the very port that is dialled, 'auto' is port for pods and inband for Services and node ports")
	f.StringArrayVar(&o.allow, "allow", nil, "identity that may connect to the pod, like 'ns/prod/sa/*'; may be repeated (default: everyone in the trust domain)")
	f.StringSliceVar(&o.plainFrom, "allow-plaintext-from", nil, "range of addresses whose plaintext connections strict mode lets in, besides the pod's own node; may be repeated")
	f.BoolVar(&o.blockUDP, "block-udp", false, "refuse UDP to captured ranges in strict mode, except DNS; gateways do not encrypt UDP")
	f.StringVar(&o.nodePorts, "node-ports", defaultNodePorts(), "ports of nodes that belong to Services, empty for none")
	f.StringVar(&o.authorityDir, "authority-dir", "", "directory of the authority (default $"+authority.EnvDir+", or one for each cluster)")
	f.StringVar(&o.delivery, "delivery", string(delivery), "how a gateway gets its first certificate: the key is made here and travels in a Secret (secret), or in the gateway, which it never leaves (csr)")
	f.StringVar(&o.existing, "existing", string(api.ExistingReport), "connections that are open already stay in plaintext (leave), are counted and listed besides (report), or are reset, so that the application makes new ones (reset)")
	f.StringVar(&o.metricsAddr, "metrics-addr", "", fmt.Sprintf("serve metrics for Prometheus at this address of each pod, like :%d or 127.0.0.1:%[1]d; in strict mode only gateways and --allow-plaintext-from reach it (default: no port)", api.MetricsPort))
}

// complete checks the flags without asking the cluster.
func (o *enableOptions) complete() (inject.Options, survey.Ranges, error) {
	options := inject.Options{
		Image:      o.image,
		PullPolicy: corev1.PullPolicy(o.pullPolicy),
		Mode:       api.Mode(o.mode),
		OnFailure:  api.OnFailure(o.onFailure),
		Timeout:    o.timeout,
		KeepSecret: o.keepSecret,
		Wire:       api.Wire(o.wire),
		Allow:      o.allow,
		BlockUDP:   o.blockUDP,
		Delivery:   inject.Delivery(o.delivery),
		Existing:   api.Existing(o.existing),
		DryRun:     installed.DryRun(o.dryRun),

		MetricsAddr: o.metricsAddr,
	}
	if o.dryRun == dryRunNone {
		options.DryRun = installed.DryRunNone
	}
	var given survey.Ranges
	if options.OnFailure == "" {
		options.OnFailure = api.FailOpen
		if options.Mode == api.Strict {
			options.OnFailure = api.FailClosed
		}
	}
	for _, flag := range []struct {
		name, value string
		allowed     []string
	}{
		{"image-pull-policy", o.pullPolicy, []string{"", string(corev1.PullAlways), string(corev1.PullIfNotPresent), string(corev1.PullNever)}},
		{"mode", o.mode, []string{string(api.Permissive), string(api.Strict)}},
		{"on-failure", string(options.OnFailure), []string{string(api.FailOpen), string(api.FailClosed)}},
		{"wire", o.wire, []string{api.WireAuto, api.WirePort, api.WireInband}},
		{"delivery", o.delivery, []string{string(inject.DeliverySecret), string(inject.DeliveryCSR)}},
		{"existing", o.existing, []string{string(api.ExistingLeave), string(api.ExistingReport), string(api.ExistingReset)}},
		{"dry-run", o.dryRun, []string{dryRunNone, string(installed.DryRunClient), string(installed.DryRunServer)}},
		{"output", o.output, []string{"", "name", "json", "yaml"}},
	} {
		if err := oneOf(flag.name, flag.value, flag.allowed); err != nil {
			return options, given, err
		}
	}
	var err error
	switch options.TTL, err = ca.ParseTTL(o.certTTL); {
	case err != nil:
		return options, given, fmt.Errorf("reading --cert-ttl: %w", err)
	case options.TTL <= 0:
		return options, given, fmt.Errorf("--cert-ttl %s is not positive", o.certTTL)
	case o.image == "":
		return options, given, errors.New("--image is empty")
	case o.keepSecret && options.Delivery == inject.DeliveryCSR:
		return options, given, errors.New("--keep-secret and --delivery=csr are both given, and csr makes no Secret")
	case o.timeout <= 0:
		return options, given, fmt.Errorf("--timeout %s is not positive", o.timeout)
	case o.parallel <= 0:
		return options, given, fmt.Errorf("--parallel %d is not positive", o.parallel)
	}
	for _, flag := range []struct {
		name   string
		values []string
		to     *[]netip.Prefix
	}{
		{"capture-cidr", o.captureCIDR, &given.Capture},
		{"service-cidr", o.serviceCIDR, &given.Services},
		{"exclude-cidr", o.excludeCIDR, &given.Exclude},
		{"allow-plaintext-from", o.plainFrom, &options.PlaintextFrom},
	} {
		for _, value := range flag.values {
			r, err := parseRange(value)
			if err != nil {
				return options, given, api.WithHint(fmt.Errorf("reading --%s: %w", flag.name, err), "write it like 10.244.0.0/16")
			}
			*flag.to = append(*flag.to, r)
		}
	}
	for _, port := range o.excludePort {
		if port < 1 || port > 65535 {
			return options, given, fmt.Errorf("--exclude-port %d is not between 1 and 65535", port)
		}
		given.ExcludePorts = append(given.ExcludePorts, uint16(port))
	}
	if _, err := api.ParseAllow(o.allow); err != nil {
		return options, given, fmt.Errorf("reading --allow: %w", err)
	}
	if o.metricsAddr != "" {
		if _, err := api.ParseMetricsAddr(o.metricsAddr); err != nil {
			return options, given, fmt.Errorf("reading --metrics-addr: %w", err)
		}
	}
	// Only the in-band wire reaches what is behind a node port.
	if o.wire != api.WirePort && o.nodePorts != "" {
		if given.NodePorts, err = parsePorts(o.nodePorts); err != nil {
			return options, given, api.WithHint(fmt.Errorf("reading --node-ports: %w", err), "write it like "+defaultNodePorts())
		}
	}
	return options, given, nil
}

func defaultNodePorts() string {
	ports := api.DefaultNodePorts()
	return fmt.Sprintf("%d-%d", ports[0], ports[1])
}

// parsePorts reads a range of ports, as kube-apiserver's --service-node-port-range
// has it, or one port.
func parsePorts(text string) ([2]uint16, error) {
	first, last, found := strings.Cut(text, "-")
	if !found {
		last = first
	}
	var ports [2]uint16
	for i, word := range []string{first, last} {
		port, err := strconv.ParseUint(word, 10, 16)
		if err != nil || port == 0 {
			return ports, fmt.Errorf("%q is no range of ports", text)
		}
		ports[i] = uint16(port)
	}
	if ports[0] > ports[1] {
		return ports, fmt.Errorf("%q is no range of ports", text)
	}
	return ports, nil
}

func oneOf(flag, value string, allowed []string) error {
	var words []string
	for _, word := range allowed {
		if value == word {
			return nil
		}
		if word != "" {
			words = append(words, word)
		}
	}
	return api.WithHint(fmt.Errorf("--%s %q is unknown", flag, value), "use "+strings.Join(words, ", "))
}

// parseRange reads a CIDR range, or an address as a range of one.
func parseRange(text string) (netip.Prefix, error) {
	text = strings.TrimSpace(text)
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	r, err := netip.ParsePrefix(text)
	if err != nil || r.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is no range of addresses", text)
	}
	return r.Masked(), nil
}

// run connects to the cluster and enables the pods that args and flags select.
func (o *enableOptions) run(ctx context.Context, a *app, options inject.Options, given survey.Ranges, args []string) error {
	if options.DryRun == installed.DryRunNone {
		if err := o.confirm.check(a, &o.targets); err != nil {
			return err
		}
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	found, missing := a.find(ctx, &o.targets, args)
	if len(found.Pods) == 0 {
		return missing
	}
	signer, err := authority.Load(ctx, authority.LoadOptions{Client: client, Dir: o.authorityDir, Getenv: os.Getenv})
	if err != nil {
		return fmt.Errorf("loading the authority: %w", err)
	}
	injector := &inject.Injector{
		Client:    client,
		Authority: signer,
		Gateways:  remote.NewClient(config, client),
		Options:   options,
	}
	return o.enable(ctx, a, client, injector, given, found, missing)
}

// enable is run with everything at hand. missing joins the errors of named pods
// that are not there.
func (o *enableOptions) enable(ctx context.Context, a *app, client kubernetes.Interface, injector *inject.Injector,
	given survey.Ranges, found *targets.Selection, missing error,
) error {
	report := newEnableReport(a, o.output, injector.Options.DryRun)
	report.namespaces = several(found.Pods)
	pods := sift(found, report.skipLeaving)
	if injector.Options.DryRun == installed.DryRunNone {
		if err := o.confirm.ask(ctx, a, &o.targets, "enable", pods); err != nil {
			return err
		}
	}
	report.missing(missing)
	var results []inject.Result
	if len(pods) > 0 {
		if err := inject.CheckServer(ctx, client.Discovery(), injector.Options.Delivery); err != nil {
			return err
		}
		cluster, err := survey.Run(ctx, client, pods, given)
		if err != nil {
			return err
		}
		report.warn("", cluster.Warnings)
		injector.Survey = cluster
		results = injector.EnableAll(ctx, pods, o.parallel, report.add)
	}
	report.ofWorkloads(found.Workloads)
	err := report.finish(results)
	if ctx.Err() != nil {
		// What was left is said; main says that the command was interrupted.
		return ctx.Err()
	}
	return err
}
