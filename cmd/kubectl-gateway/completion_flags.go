package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
)

// complete adds completions to the verbs of root that have none of their own.
func (a *app) complete(root *cobra.Command) {
	flags.Files(root.PersistentFlags(), "kubeconfig", "certificate-authority", "client-certificate", "client-key")
	flags.Dirs(root.PersistentFlags(), "cache-dir")
	a.completeFlags(root, root.PersistentFlags())
	for _, cmd := range root.Commands() {
		a.completeFlags(cmd, cmd.Flags())
		if cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
	}
}

// completeFlags completes the values of flags: names in the cluster and the kubeconfig,
// and the values that the flags know themselves.
func (a *app) completeFlags(cmd *cobra.Command, set *pflag.FlagSet) {
	set.VisitAll(func(flag *pflag.Flag) {
		complete := flags.Complete(flag)
		switch flag.Name {
		case "namespace", "lease-namespace":
			complete = a.completeNamespaces
		case "context", "cluster", "user":
			complete = a.completeKubeconfig(flag.Name)
		}
		if complete != nil {
			// The only errors are an unknown flag and one that has a function.
			_ = cmd.RegisterFlagCompletionFunc(flag.Name, complete)
		}
	})
}
