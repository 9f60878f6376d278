package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/packets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// packetsOptions are the flags of packets.
type packetsOptions struct {
	file    string
	options packets.Options
}

func newPacketsCommand(a *app) *cobra.Command {
	var o packetsOptions
	cmd := &cobra.Command{
		Use:     "packets POD [-w FILE]",
		Aliases: []string{"capture"},
		Short:   "Record the packets of a pod with a gateway",
		Long: `Records the packets on all interfaces of a pod, and writes them as pcapng to a
file or to the standard output, for Wireshark and tcpdump. The pod's gateway reads
them. Each packet names its interface: the pod's interface shows what the network
sees, loopback shows what the application says to the gateway, in plaintext. Keep
such a file as you would keep that plaintext.

Ends with Ctrl-C, or when it reaches --duration or --max-bytes, and prints how many
packets it recorded and how many the kernel dropped. The exit code is 0 then, and 1
if something failed.`,
		Example: `  # Watch live
  kubectl gateway packets pod/web-0 -w - | wireshark -k -i -

  # What leaves the pod, without what the application says, for a minute
  kubectl gateway packets pod/web-0 -w web-0.pcapng --interface=eth0 --duration=1m

  # TLS between gateways only
  kubectl gateway packets pod/web-0 -w - --port=18443 | tcpdump -n -r -`,
		ValidArgsFunction: a.completeTargets(enabled),
		Args:              cobra.ExactArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "write", "w", "-", "file to write, - for the standard output")
	flags.Files(f, "write")
	f.StringVar(&o.options.Interface, "interface", "", "record only this interface of the pod, such as eth0 or lo")
	flags.Repeated(f, &o.options.Ports, "port", "ports", "", "record only TCP and UDP from or to this port; may be repeated", flags.Commas, parsePort)
	flags.Int(f, &o.options.SnapLen, "snaplen", 0, flags.NotNegative, "bytes of each packet to keep, 0 for all")
	flags.Duration(f, &o.options.Duration, "duration", packets.DefaultDuration, flags.Positive, "end after this time")
	flags.Parsed(f, &o.options.MaxBytes, "max-bytes", "string", "1Gi", "end at this size, such as 100Mi", parseSize)
	return cmd
}

func (o *packetsOptions) run(ctx context.Context, a *app, args []string) error {
	if o.file == "-" && isTerminal(a.Out) {
		return api.WithHint(errors.New("packets are binary and the output is a terminal"),
			"name a file: -w FILE, or watch live: kubectl gateway packets "+args[0]+" -w - | wireshark -k -i -")
	}
	gateway, err := a.oneGateway(ctx, args)
	if err != nil {
		return err
	}
	out, err := o.open(a)
	if err != nil {
		return err
	}
	summary, err := o.record(ctx, a, gateway, out)
	if closeErr := out.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("writing the packets: %w", closeErr)
	}
	if err == nil || summary.Packets > 0 {
		printRecorded(a.ErrOut, summary)
	}
	return err
}

// parseSize reads a number of bytes as a quantity of Kubernetes.
func parseSize(text string) (int64, error) {
	size, err := resource.ParseQuantity(text)
	if err != nil || size.Sign() <= 0 {
		return 0, api.WithHint(fmt.Errorf("%q is not a size", text), "use a number of bytes such as 100Mi")
	}
	return size.Value(), nil
}

// open returns the output. Only the owner can read a file.
func (o *packetsOptions) open(a *app) (io.WriteCloser, error) {
	if o.file == "-" {
		return struct {
			io.Writer
			io.Closer
		}{a.Out, io.NopCloser(nil)}, nil
	}
	file, err := os.OpenFile(o.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating the file: %w", err)
	}
	// One that exists keeps its mode, and may be a pipe or a device.
	if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
		err = file.Chmod(0o600)
		if err != nil && runtime.GOOS != "windows" {
			return nil, errors.Join(fmt.Errorf("protecting the file: %w", err), file.Close())
		}
	}
	return file, nil
}

func (o *packetsOptions) record(ctx context.Context, a *app, gateway *remote.Conn, out io.Writer) (packets.Summary, error) {
	style := terminal.For(a.ErrOut, os.Getenv)
	begun := false
	return packets.Run(ctx, gateway, o.options, func(_ *pcapng.Reader, block *pcapng.Block) error {
		if !begun {
			begun = true
			fmt.Fprintf(a.ErrOut, "recording the packets of pod/%s -n %s, end with Ctrl-C\n", gateway.Ref().Pod, gateway.Ref().Namespace)
			if o.options.Interface == "" || o.options.Interface == "lo" {
				fmt.Fprintf(a.ErrOut, "%s the packets on loopback hold what the application says in plaintext\n",
					style.Paint(terminal.Caution, "warning:"))
			}
		}
		if _, err := out.Write(block.Raw); err != nil {
			return fmt.Errorf("writing the packets: %w", err)
		}
		return nil
	})
}

func printRecorded(w io.Writer, s packets.Summary) {
	dropped := fmt.Sprintf("%d dropped by the kernel", s.Dropped)
	if !s.Complete {
		dropped = "the end is missing"
	}
	fmt.Fprintf(w, "%d packets, %s, %s\n", s.Packets, terminal.Bytes(s.Bytes), dropped)
}
