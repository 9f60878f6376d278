package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/check"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// checkOptions are the flags of check.
type checkOptions struct {
	targets targets.Flags
	output  string
	wait    time.Duration
	checker check.Checker
}

func newCheckCommand(a *app) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check [TARGET... | -f FILE | -l SELECTOR | --all]",
		Short: "Check whether pods can have gateways, and whether running gateways are well",
		Long: `Checks everything that gateways depend on: this machine, the cluster, your
permissions, the policies of the namespace, the nodes, the image, the authority,
address ranges, network policies, other meshes, and running gateways. Without a
selection it checks the namespace and all its pods; a pod that cannot have a gateway
is then a warning.

Each line begins with √ (ok), ‼ (a warning), × (an error) or - (skipped, with the
reason). Below a problem is the command that solves it, or advice. The exit code is
1 if there is an error, and 0 if there are warnings alone.

check changes nothing in the cluster, with one exception: it tests the image in an
unprivileged pod, with the argument "version", on up to three nodes, and deletes the
pod at once, also after Ctrl-C. --image-test=false skips that.

-o short prints problems only. -o json prints a GatewayCheckReport: its checks have
an id, a category, a description, a result (ok, skipped, warning or error), and a
detail, a hint and a command where there are any.`,
		Example: `  # Is this namespace ready?
  kubectl gateway check

  # Can these pods have gateways?
  kubectl gateway check pod/web-0 deploy/api

  # Only what is wrong
  kubectl gateway check -n shop -o short

  # Wait until everything is ready, as in a script after making the cluster
  kubectl gateway check --wait 2m

  # With an image from another registry
  kubectl gateway check --image=registry.example/kube-gateway:v1

  # Can 'watch --sign' answer requests for certificates?
  kubectl gateway check --sign=example.com/kube-gateway

  # The errors, for programs
  kubectl gateway check -o json | jq '.checks[] | select(.result == "error")'`,
		ValidArgsFunction: a.completeTargets(toStay),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	f := cmd.Flags()
	o.targets.AddFlags(f)
	c := &o.checker
	addOutput(f, &o.output, "table", "table", "short", "json")
	flags.Duration(f, &o.wait, "wait", 0, flags.NotNegative, "run failed checks again until they pass, at most for this time")
	addTimeout(f, &c.Timeout, check.DefaultTimeout, "how long one check may take")
	addImage(f, &c.Image, "image of the gateway")
	addPullPolicy(f, &c.PullPolicy, "the cluster's")
	f.BoolVar(&c.TestImage, "image-test", true, "test the image in a temporary pod")
	flags.Duration(f, &c.ImageTimeout, "image-timeout", check.DefaultImageTimeout, flags.Positive, "how long the test of the image may take")
	flags.Choice(f, &c.Wire, "wire", "", api.WireAuto, "how gateways are to meet", declared.Wires())
	addSurveyed(f, &c.Given)
	addAuthorityDir(f, &c.AuthorityDir, "authority-dir")
	addSign(f, &c.Sign, "check as well whether 'watch --sign' can work for this signer, like example.com/kube-gateway")
	return cmd
}

func (o *checkOptions) run(ctx context.Context, a *app, args []string) error {
	checker := &o.checker
	checker.Version, checker.Now, checker.LookPath = version, time.Now, exec.LookPath
	checker.Progress = a.ErrOut
	checker.Named = !o.targets.Empty(args)
	// A kubeconfig that cannot be read is a finding as well.
	checker.Unread = o.connect(a, checker, args)
	report, err := checker.Run(ctx, o.wait)
	if err != nil {
		return err
	}
	if o.output != "table" && o.output != "short" {
		err = a.printAs("report", report, o.output)
	} else if err = report.Print(a.Out, terminal.For(a.Out, os.Getenv), check.PrintOptions{Short: o.output == "short", ASCII: check.ASCII(os.Getenv)}); err != nil {
		err = fmt.Errorf("printing the report: %w", err)
	}
	if err == nil && report.Result == check.Error {
		err = errReported
	}
	return err
}

// connect tells checker how to ask the cluster, and which pods args and flags select.
func (o *checkOptions) connect(a *app, checker *check.Checker, args []string) error {
	config, _, err := a.kubernetes()
	if err != nil {
		return err
	}
	// The server warns about dry runs. The report has the same findings with advice.
	config, client, err := quiet(config)
	if err != nil {
		return err
	}
	raw, err := a.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	if checker.Namespace, err = a.namespace(); err != nil {
		return err
	}
	current := raw.CurrentContext
	if a.flags.Context != nil && *a.flags.Context != "" {
		current = *a.flags.Context
	}
	checker.Client, checker.Gateways = client, remote.NewClient(config, client)
	checker.Context = fmt.Sprintf("context %q, server %s, namespace %q", current, config.Host, checker.Namespace)
	checker.ServerTime = func(ctx context.Context) (time.Time, error) { return serverTime(ctx, config) }
	checker.Find = func(ctx context.Context) ([]corev1.Pod, error) {
		selected := o.targets
		selected.All = selected.All || !checker.Named
		found, err := a.find(ctx, &selected, args)
		if !checker.Named && errors.Is(err, targets.ErrNoMatch) {
			err = nil
		}
		return found.Pods, err
	}
	return nil
}

// serverTime reads the clock of the API server from the header of an answer (RFC 9110,
// section 6.6.1).
func serverTime(ctx context.Context, config *rest.Config) (time.Time, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return time.Time{}, err
	}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return time.Time{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, url.JoinPath("version").String(), nil)
	if err != nil {
		return time.Time{}, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return time.Time{}, err
	}
	_ = answer.Body.Close()
	return http.ParseTime(answer.Header.Get("Date"))
}
