package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	buildversion "github.com/kubectl-gateway/kubectl-gateway/internal/version"
)

// version is the build of the plugin, the same for the whole run.
var version = buildversion.String()

// versions is what version prints with -o json and -o yaml.
type versions struct {
	Client clientVersion `json:"clientVersion"`
	// Server is nil if the API server was not asked or did not answer.
	Server *apiversion.Info `json:"serverVersion,omitempty"`
}

// clientVersion describes the plugin.
type clientVersion struct {
	Version   string `json:"version"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
	// Image is the default of enable.
	Image string `json:"image"`
}

// versionOptions are the flags of version.
type versionOptions struct {
	client bool
	output string
}

func newVersionCommand(a *app) *cobra.Command {
	var o versionOptions
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of the plugin and of the server",
		Long: `Prints the version of the plugin, the gateway's image that belongs to it, and
the version of the API server. If the server does not answer, the rest is printed
all the same, and the exit code is 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), a) },
	}
	cmd.Flags().BoolVar(&o.client, "client", false, "do not ask the server")
	addOutput(cmd.Flags(), &o.output, "", "json", "yaml", "kyaml")
	return cmd
}

func (o *versionOptions) run(ctx context.Context, a *app) error {
	all := localVersions()
	var unread error
	if !o.client {
		all.Server, unread = serverVersion(ctx, a)
	}
	if o.output != "" {
		return errors.Join(a.printAs("versions", all, o.output), unread)
	}
	text := fmt.Sprintf("Plugin version: %s\nGo version: %s\nPlatform: %s\nGateway image: %s\n",
		all.Client.Version, all.Client.GoVersion, all.Client.Platform, all.Client.Image)
	if all.Server != nil {
		text += fmt.Sprintf("Server version: %s\n", terminal.Clean(all.Server.GitVersion))
	}
	return errors.Join(a.print("versions", text), unread)
}

// localVersions are those that no server has to be asked for.
func localVersions() versions {
	return versions{Client: clientVersion{Version: version, GoVersion: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Image: installed.DefaultImage(version)}}
}

// serverVersion asks the API server for its version.
func serverVersion(ctx context.Context, a *app) (*apiversion.Info, error) {
	_, client, err := a.kubernetes()
	if err != nil {
		return nil, err
	}
	info, err := discovery.ToServerVersionInterfaceWithContext(client.Discovery()).ServerVersionWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the server for its version: %w", err)
	}
	return info, nil
}
