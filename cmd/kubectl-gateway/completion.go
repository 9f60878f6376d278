package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
)

func newCompletionCommand(a *app) *cobra.Command {
	var install bool
	var dir string
	cmd := &cobra.Command{
		Use:   "completion (bash | zsh | fish | powershell | --install)",
		Short: "Complete commands with the Tab key",
		Long: `Completes commands, flags, and the names of pods, workloads, namespaces and
contexts while they are typed.

kubectl 1.26 and later completes the words after "kubectl gateway" with a program
called kubectl_complete-gateway. --install writes it beside the plugin, or else to
the first writable directory of $PATH, and prints what else your shell needs if it
does not complete kubectl's own commands yet. To undo it, delete the file.

With the name of a shell it prints a script that completes the words after
"kubectl-gateway", the plugin's own name.

The Tab key looks names up in the cluster for two seconds at most, and changes
nothing there.`,
		Example: `  # Complete "kubectl gateway"
  kubectl gateway completion --install

  # The same, in a directory of your choice
  kubectl gateway completion --install --dir "$HOME/.local/bin"

  # Complete "kubectl-gateway" in this bash; likewise in zsh
  source <(kubectl gateway completion bash)

  # In fish, permanently
  kubectl gateway completion fish > ~/.config/fish/completions/kubectl-gateway.fish

  # In PowerShell
  kubectl gateway completion powershell | Out-String | Invoke-Expression`,
		ValidArgsFunction: cobra.FixedCompletions([]cobra.Completion{"bash", "zsh", "fish", "powershell"}, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			const hint = "name bash, zsh, fish or powershell, or use --install"
			switch {
			case install && len(args) > 0:
				return errors.New("a shell and --install are both given: use one of them")
			case install:
				return installCompletion(a, dir)
			case dir != "":
				return api.WithHint(errors.New("--dir is given without --install"), "add --install")
			case len(args) != 1:
				return api.WithHint(errors.New("exactly one shell is needed"), hint)
			}
			var err error
			switch root := cmd.Root(); args[0] {
			case "bash":
				err = root.GenBashCompletionV2(a.Out, true)
			case "zsh":
				err = root.GenZshCompletion(a.Out)
			case "fish":
				err = root.GenFishCompletion(a.Out, true)
			case "powershell", "pwsh":
				err = root.GenPowerShellCompletionWithDesc(a.Out)
			default:
				return api.WithHint(fmt.Errorf("%q is not a shell that can complete", args[0]), hint)
			}
			if err != nil {
				return fmt.Errorf("printing the script: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&install, "install", false, "write the program that completes the plugin's words for kubectl")
	cmd.Flags().StringVar(&dir, "dir", "", "with --install: directory to write to; it must be in $PATH (default: that of the plugin, or the first writable one of $PATH)")
	flags.Dirs(cmd.Flags(), "dir")
	return cmd
}

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
