package main

import (
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	// Authentication plugins of kubeconfig files that name one.
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/answer"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/deadline"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/trace"
)

// app is shared by all verbs: the streams and kubectl's connection flags.
type app struct {
	genericiooptions.IOStreams
	flags *genericclioptions.ConfigFlags
	// verbosity is how much of the requests to the API server is logged.
	verbosity int
}

// Limits of requests per second. client-go's default of 5 turns enabling a thousand pods
// into minutes; the server's own priority and fairness is the real limit.
const (
	clientQPS   = 200
	clientBurst = 400
)

// wrap completes what the kubeconfig and the flags say of the connection.
func (a *app) wrap(c *rest.Config) *rest.Config {
	c.QPS, c.Burst = clientQPS, clientBurst
	c.UserAgent = "kubectl-gateway/" + version
	c.WarningHandler = rest.NewWarningWriter(a.ErrOut, rest.WarningWriterOptions{Deduplicate: true})
	// What is wrapped first is next to the network: each try is logged, and all of them together have
	// the time of one request.
	if a.verbosity >= trace.URLs {
		c.Wrap(trace.Transport(a.ErrOut, a.verbosity))
	}
	c.Wrap(resend.Transport)
	c.Wrap(answer.Transport)
	if c.Timeout > 0 {
		c.Wrap(deadline.Transport(c.Timeout))
		c.Timeout = 0
	}
	return c
}

func newRootCommand(streams genericiooptions.IOStreams) *cobra.Command {
	a := &app{IOStreams: streams, flags: genericclioptions.NewConfigFlags(true)}
	a.flags.WrapConfigFn = a.wrap
	root := &cobra.Command{
		Use:   "kubectl-gateway",
		Short: "Encrypt the TCP traffic of running pods",
		Long: `Encrypts the TCP traffic of pods that are already running: no restart, no CNI
change, no control plane in the cluster.`,
		// kubectl users type "kubectl gateway": usage lines say so.
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl gateway"},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	a.flags.AddFlags(root.PersistentFlags())
	flags.IntP(root.PersistentFlags(), &a.verbosity, "v", "v", 0, flags.NotNegative,
		"log the requests to the API server on the error stream: 6 for URLs and times, 7 for headers as well, 8 and 9 for bodies; what is secret is masked")
	root.AddCommand(
		newInitCACommand(a),
		newCheckCommand(a),
		newEnableCommand(a, &enableOptions{}),
		newDisableCommand(a, &disableOptions{}),
		newModeCommand(a),
		newAllowCommand(a),
		newLogCommand(a),
		newRefreshCommand(a),
		newUpgradeCommand(a),
		newRotateCommand(a),
		newRevokeCommand(a),
		newStatusCommand(a),
		newTailCommand(a),
		newVerifyCommand(a),
		newPacketsCommand(a),
		newMetricsCommand(a),
		newSupportBundleCommand(a),
		newWatchCommand(a),
		newAdmissionCommand(a),
		newCompletionCommand(a),
		newVersionCommand(a),
	)
	root.SetFlagErrorFunc(flags.Error)
	a.complete(root)
	return root
}
