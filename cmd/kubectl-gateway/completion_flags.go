package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// complete gives all verbs of root their completions, except where a verb has one
// of its own.
func (a *app) complete(root *cobra.Command) {
	a.completeFlags(root, root.PersistentFlags())
	for _, cmd := range root.Commands() {
		a.completeFlags(cmd, cmd.Flags())
		if cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
			if choose := chooser(cmd.Name()); choose != nil {
				cmd.ValidArgsFunction = a.completeTargets(choose)
			}
		}
	}
}

// completeFlags completes the values of flags. What shells do by themselves,
// names of files, is left where a flag takes any text that could be one.
func (a *app) completeFlags(cmd *cobra.Command, flags *pflag.FlagSet) {
	flags.VisitAll(func(flag *pflag.Flag) {
		_, known := cmd.GetFlagCompletionFunc(flag.Name)
		_, files := flag.Annotations[cobra.BashCompFilenameExt]
		if _, dirs := flag.Annotations[cobra.BashCompSubdirsInDir]; known || files || dirs {
			return
		}
		complete := a.completeFlag(cmd.Name(), flag)
		if complete == nil {
			return
		}
		// The only errors are an unknown flag and one that has a function.
		_ = cmd.RegisterFlagCompletionFunc(flag.Name, complete)
	})
}

// completeFlag returns what completes the values of a flag, nil for names of files.
func (a *app) completeFlag(verb string, flag *pflag.Flag) cobra.CompletionFunc {
	if values := flagValues(verb, flag.Name); values != nil {
		return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder)
	}
	switch flag.Name {
	case "namespace", "lease-namespace":
		return a.completeNamespaces
	case "context", "cluster", "user":
		return a.completeKubeconfig(flag.Name)
	case "dir", "authority-dir", "cache-dir", "kustomize":
		return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
	}
	// Durations, numbers, ranges and the like are no files.
	if kind := flag.Value.Type(); kind != "string" && kind != "stringSlice" && kind != "stringArray" || slices.Contains(freeText(), flag.Name) {
		return cobra.NoFileCompletions
	}
	return nil
}

// freeText are the flags whose values are texts that nobody can know before.
func freeText() []string {
	return []string{"selector", "field-selector", "cert-ttl", "ttl", "image", "trust-domain", "allow", "capture-cidr", "service-cidr",
		"exclude-cidr", "allow-plaintext-from", "node-ports", "fail-if-expiring", "template", "health-addr", "metrics-addr",
		"server", "tls-server-name", "token", "as", "as-group", "as-uid", "as-user-extra", "request-timeout"}
}

// flagValues are the values of flags that take one of a few, nil for others.
func flagValues(verb, flag string) []cobra.Completion {
	described := cobra.CompletionWithDesc
	switch flag {
	case "mode":
		return modes()
	case "wire":
		return []cobra.Completion{described(api.WireAuto, "port to pods, inband to Services and node ports"),
			described(api.WirePort, "to a port of the peer's own"), described(api.WireInband, "on the very port that is dialled")}
	case "on-failure":
		return []cobra.Completion{described(string(api.FailOpen), "without its gateway a pod connects in plaintext"),
			described(string(api.FailClosed), "without its gateway a pod does not connect")}
	case "delivery":
		return []cobra.Completion{described(string(inject.DeliverySecret), "the key travels in a Secret"),
			described(string(inject.DeliveryCSR), "the key never leaves the gateway")}
	case "existing":
		return []cobra.Completion{described(string(api.ExistingLeave), "connections that are open stay"),
			described(string(api.ExistingReport), "they stay, are counted and listed"), described(string(api.ExistingReset), "they are reset")}
	case "image-pull-policy":
		return []cobra.Completion{"Always", "IfNotPresent", "Never"}
	case "store":
		return []cobra.Completion{described(string(authority.StoreLocal), "the key stays on this machine"),
			described(string(authority.StoreCluster), "the key is in a Secret as well")}
	case "dry-run":
		return []cobra.Completion{dryRunNone, string(installed.DryRunClient), string(installed.DryRunServer)}
	case "by":
		return []cobra.Completion{"pod", "workload"}
	case "output":
		return outputs(verb)
	}
	return nil
}

func modes() []cobra.Completion {
	return []cobra.Completion{cobra.CompletionWithDesc(string(api.Strict), "refuse what cannot be encrypted"),
		cobra.CompletionWithDesc(string(api.Permissive), "let it through in plaintext")}
}

// outputs are the formats that a verb knows besides its default.
func outputs(verb string) []cobra.Completion {
	switch verb {
	case "enable", "disable", "rotate", "mode", "allow", "init-ca":
		return []cobra.Completion{"name", "json", "yaml"}
	case "status":
		return []cobra.Completion{"wide", "json", "yaml", "dot", "svg"}
	case "check":
		return []cobra.Completion{"table", "short", "json"}
	case "metrics":
		return []cobra.Completion{"text", "json"}
	case "tail", "watch":
		return []cobra.Completion{"json"}
	}
	return []cobra.Completion{"json", "yaml"}
}
