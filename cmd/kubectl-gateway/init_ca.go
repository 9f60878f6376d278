package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// initCAOptions are the flags of init-ca.
type initCAOptions struct {
	options authority.InitOptions
	source  sourceFlags
	output  string
	signer  signerFlags
}

func newInitCACommand(a *app) *cobra.Command {
	var o initCAOptions
	cmd := &cobra.Command{
		Use:   "init-ca",
		Short: "Set up the certificate authority of a cluster",
		Long: `Creates the certificate authority of a cluster, keeps its key on this machine, and
publishes its certificate in the cluster as the trust bundle. If there is an
authority already, init-ca says so and changes nothing, except that it publishes
again what the cluster has lost, and removes roots that were retired.

With --signer no authority is made: a signer of the cluster issues the certificates.
'enable', 'rotate' and 'watch' then bring it the requests of gateways, whose keys never
leave them, and bring the certificates back. The signer is asked by PodCertificateRequest
objects, before Kubernetes 1.37 by CertificateSigningRequest objects. It has to issue
what is asked for: the SPIFFE ID as the only URI name, all addresses of the pod, and the
key usages of servers and clients.`,
		Example: `  # Once for each cluster
  kubectl gateway init-ca

  # Your own authority
  kubectl gateway init-ca --from-cert ca.crt --from-key ca.key

  # A signer of the cluster, trusted by its ClusterTrustBundle objects
  kubectl gateway init-ca --signer=example.com/mesh

  # Let other operators, and programs in the cluster, find the key there
  kubectl gateway init-ca --store=cluster`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cmd.Flags().Changed("signer") {
				return o.chooseSigner(cmd.Context(), a, cmd.Flags())
			}
			if cmd.Flags().Changed("signer-request") || cmd.Flags().Changed("trust-bundle") {
				return errors.New("--signer-request and --trust-bundle need --signer")
			}
			if o.options.Source, err = o.source.read(cmd.Flags()); err != nil {
				return err
			}
			if _, o.options.Client, err = a.kubernetes(); err != nil {
				return err
			}
			o.options.Progress = func(line string) { fmt.Fprintln(a.ErrOut, line) }
			result, err := authority.Init(cmd.Context(), o.options)
			if err != nil {
				return err
			}
			if result.Backup != "" {
				fmt.Fprintln(a.ErrOut, "gateways that run already have certificates of the old authority, and refuse those of the new one until "+
					"'kubectl gateway rotate --all -A' has renewed them all")
			}
			return a.printInitResult(o.output, result)
		},
	}
	f := cmd.Flags()
	flags.Choice(f, &o.options.Store, "store", "", authority.StoreLocal, "where the key is kept", []flags.Word[authority.Store]{
		{Value: authority.StoreLocal, Meaning: "on this machine alone"}, {Value: authority.StoreCluster, Meaning: "in a Secret as well"},
	})
	o.source.add(cmd, "", "an existing authority")
	o.signer.add(f)
	f.StringVar(&o.options.TrustDomain, "trust-domain", "", "trust domain of all identities (default "+ca.DefaultTrustDomain+", or that of the authority)")
	f.BoolVar(&o.options.Force, "force", false, "replace an existing authority at once; running gateways refuse each other until all are rotated ('rotate --ca' replaces it while traffic goes on)")
	addAuthorityDir(f, &o.options.Dir, "dir")
	addOutput(f, &o.output, "", "json", "yaml", "kyaml", "name")
	return cmd
}

// initOutput is the machine-readable result of init-ca.
type initOutput struct {
	TrustDomain string `json:"trustDomain"`
	// Fingerprint is the SHA-256 of the authority's certificate.
	Fingerprint string    `json:"fingerprint"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	File        string    `json:"file,omitempty"`
	Backup      string    `json:"backup,omitempty"`
	// TrustBundle and Secret are namespace/name of the cluster's objects.
	TrustBundle string `json:"trustBundle"`
	Secret      string `json:"secret,omitempty"`
	Created     bool   `json:"created"`
	Changed     bool   `json:"changed"`
}

func (a *app) printInitResult(format string, r *authority.InitResult) error {
	o := initOutput{
		TrustDomain: r.Authority.TrustDomain(),
		Fingerprint: r.Authority.Fingerprint(),
		NotBefore:   r.Authority.NotBefore().UTC(),
		NotAfter:    r.Authority.NotAfter().UTC(),
		File:        r.File,
		Backup:      r.Backup,
		TrustBundle: authority.Namespace + "/" + authority.BundleName,
		Created:     r.Created,
		Changed:     r.Changed,
	}
	if r.InCluster {
		o.Secret = authority.Namespace + "/" + authority.SecretName
	}
	switch format {
	case "name":
		text := "configmap/" + authority.BundleName + "\n"
		if r.InCluster {
			text += "secret/" + authority.SecretName + "\n"
		}
		return a.print("result", text)
	case "":
		done := "unchanged"
		switch {
		case r.Backup != "":
			done = "replaced"
		case r.Created:
			done = "created"
		case r.Changed:
			done = "updated"
		}
		return a.print("result", fmt.Sprintf("authority/%s %s (trust domain %s, valid until %s)\n",
			o.Fingerprint[:16], done, o.TrustDomain, o.NotAfter.Format(time.DateOnly)))
	}
	return a.printAs("result", o, format)
}
