package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/bundle"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/check"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// bundleOptions are the flags of support-bundle.
type bundleOptions struct {
	targets targets.Flags
	file    string
	options bundle.Options
}

func newSupportBundleCommand(a *app) *cobra.Command {
	var o bundleOptions
	cmd := &cobra.Command{
		Use:   "support-bundle [TARGET... | -f FILE | -l SELECTOR | --all]",
		Short: "Collect what helps to find out what is wrong, in one archive",
		Long: `Collects into one archive (tar.gz) what somebody needs who is to help: the versions,
what 'check' finds, the status of gateways, who talks to whom, metrics, the newest
lines of the logs of gateways, events of the pods, and what is known of their nodes.
Without a selection these are the pods of the namespace that have a gateway.

It changes nothing. Secrets, keys and kubeconfigs are not read, and the environment,
the commands and the annotations of pods are left out, as is what applications log.
What remains names pods, namespaces, identities and addresses: look at it before you
send it. With --mask-addresses, addresses and the names of nodes become pseudonyms,
the same one for the same address in the whole archive.

What cannot be collected is noted in the archive and on the error stream, and is no
failure: the exit code is 0 if the archive was written. Only you can read the file.`,
		Example: `  # About the gateways of the namespace
  kubectl gateway support-bundle

  # About some pods, without their addresses
  kubectl gateway support-bundle pod/web-0 deploy/api --mask-addresses -o web.tar.gz

  # What is in it
  kubectl gateway support-bundle -A -o - | tar -tz`,
		ValidArgsFunction: a.completeTargets(everEnabled),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	f := cmd.Flags()
	o.targets.AddFlags(f)
	f.StringVarP(&o.file, "output", "o", "", "file to write, - for the standard output (default kubectl-gateway-support-TIME.tar.gz)")
	flags.Files(f, "output")
	f.BoolVar(&o.options.MaskAddresses, "mask-addresses", false, "replace addresses and the names of nodes by pseudonyms")
	flags.Parsed(f, &o.options.LogBytes, "log-bytes", "quantity", installed.Size(bundle.DefaultLogBytes), "how much of each log to keep; the newest lines are kept", parseSize)
	addTimeout(f, &o.options.Timeout, status.DefaultTimeout, "how long one gateway, or the API server, may take for one answer")
	addParallel(f, &o.options.Parallel)
	return cmd
}

func (o *bundleOptions) run(ctx context.Context, a *app, args []string) error {
	if o.file == "-" && isTerminal(a.Out) {
		return api.WithHint(errors.New("an archive is binary and the output is a terminal"), "name a file: -o FILE")
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	found, err := a.lookAt(ctx, o.targets, args)
	if err != nil {
		return err
	}
	if len(found.pods) == 0 && found.missing == nil {
		fmt.Fprintf(a.ErrOut, "no gateways found in %s: the archive will have nothing about pods\n", line(found.where()))
	}
	checks := checkOptions{output: "json", checker: check.Checker{
		Version: version, Now: time.Now, LookPath: exec.LookPath, Progress: io.Discard, Named: true,
		Image: installed.DefaultImage(version), Wire: api.WireAuto, Timeout: o.options.Timeout,
	}}
	checks.checker.Unread = checks.connect(a, &checks.checker, args)
	checks.checker.Find = func(context.Context) ([]corev1.Pod, error) { return found.pods, nil }
	c := &bundle.Collector{
		Kube: client, Gateways: remote.NewClient(config, client), Options: o.options, Explain: explain, Now: time.Now,
		Versions: func(ctx context.Context) (any, error) {
			all := localVersions()
			var err error
			all.Server, err = serverVersion(ctx, a)
			return all, err
		},
		Check:      func(ctx context.Context) (*check.Report, error) { return checks.checker.Run(ctx, 0) },
		Exposition: output.Exposition,
		Progress:   func(text string) { fmt.Fprintln(a.ErrOut, line(text)) },
	}
	if server, err := url.Parse(config.Host); err == nil {
		c.Hosts = []string{server.Hostname()}
	}
	missing := a.reportMissing(found.missing)
	name, summary, err := o.write(ctx, a, c, found.pods)
	if err != nil {
		return err
	}
	style := terminal.For(a.ErrOut, os.Getenv)
	for _, m := range summary.Missing {
		fmt.Fprintf(a.ErrOut, "%s not collected: %s: %s\n", style.Paint(terminal.Caution, "warning:"), line(m.File), line(m.Why))
	}
	if name != "" {
		if err := a.print("name of the archive", line(name)+"\n"); err != nil {
			return err
		}
	}
	return missing
}

// write writes the archive, and returns its name unless that is the standard output. A file appears
// under its name once it is complete.
func (o *bundleOptions) write(ctx context.Context, a *app, c *bundle.Collector, pods []corev1.Pod) (string, *bundle.Summary, error) {
	if o.file == "-" {
		summary, err := c.Write(ctx, a.Out, pods)
		return "", summary, err
	}
	name := o.file
	if name == "" {
		name = "kubectl-gateway-support-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
	}
	var summary *bundle.Summary
	var failed error
	err := writeWhole(name, 0o600, func(w io.Writer) error {
		summary, failed = c.Write(ctx, w, pods)
		return failed
	})
	if err != nil && failed == nil {
		err = fmt.Errorf("writing the archive: %w", err)
	}
	return name, summary, err
}
