package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// initCAOptions are the flags of init-ca.
type initCAOptions struct {
	authorityFlags
	options authority.InitOptions
	source  sourceFlags
	output  string
	signer  signerFlags

	changePassphrase  bool
	newPassphraseFile string
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

The key lies in a file that only you can read. --encrypt encrypts it with a passphrase,
also that of an authority which exists, and --change-passphrase gives it another one. The
passphrase is asked for on the terminal; a machine reads it from a file or a pipe
(--passphrase-file), or asks a program ($KUBE_GATEWAY_ASKPASS, called as ssh calls
$SSH_ASKPASS). Whoever signs needs it then: 'enable', 'upgrade', 'rotate', 'revoke' and
'watch' ask once; all others never do.

With --key-command the key is in no file: a program holds it, for example a token, an
agent or a key management service, and signs when it is asked. With --from-cert it is the key
of a certificate that exists.

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

  # The key encrypted with a passphrase, from the start or later; then another passphrase
  kubectl gateway init-ca --encrypt
  kubectl gateway init-ca --change-passphrase

  # A key that is in no file
  kubectl gateway init-ca --key-command=kms-key --key-arg=projects/p/keys/mesh

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
			if !o.changePassphrase && o.newPassphraseFile != "" {
				return errors.New("--new-passphrase-file needs --change-passphrase")
			}
			o.options.Dir, o.options.Keys = o.authorityDir, o.keys(cmd.Context())
			if o.changePassphrase {
				o.options.NewKeys = keys.New(cmd.Context(), a.askPassphrase(o.newPassphraseFile, "passphrase"))
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
	o.authorityFlags.add(a, f, "dir")
	f.BoolVar(&o.changePassphrase, "change-passphrase", false, "encrypt the key of an authority that is encrypted with another passphrase")
	f.StringVar(&o.newPassphraseFile, "new-passphrase-file", "", "with --change-passphrase: file or pipe with the new one")
	flags.Files(f, "new-passphrase-file")
	cmd.MarkFlagsMutuallyExclusive("change-passphrase", "encrypt")
	cmd.MarkFlagsMutuallyExclusive("change-passphrase", "force")
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
	// Key is open, encrypted or command.
	Key    keys.Kind `json:"key"`
	File   string    `json:"file,omitempty"`
	Backup string    `json:"backup,omitempty"`
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
		Key:         keys.KindOf(r.Authority),
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
		kept := keys.Describe(r.Authority)
		if kept != "" {
			kept = ", " + line(kept)
		}
		return a.print("result", fmt.Sprintf("authority/%s %s (trust domain %s, valid until %s%s)\n",
			o.Fingerprint[:16], done, o.TrustDomain, o.NotAfter.Format(time.DateOnly), kept))
	}
	return a.printAs("result", o, format)
}
