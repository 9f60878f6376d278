package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// signerFlags are the flags of init-ca that choose a signer of the cluster.
type signerFlags struct {
	choice     signer.Choice
	bundleFile string
}

func (s *signerFlags) add(f *pflag.FlagSet) {
	f.StringVar(&s.choice.Name, "signer", "", "signer of the cluster that issues the certificates, like example.com/mesh; no authority is made")
	flags.Choice(f, &s.choice.Request, "signer-request", "", signer.RequestAuto, "with --signer: how it is asked", []flags.Word[signer.Request]{
		{Value: signer.RequestAuto, Meaning: "as the server can"},
		{Value: signer.RequestPod, Meaning: "by PodCertificateRequests"},
		{Value: signer.RequestCSR, Meaning: "by CertificateSigningRequests, which somebody approves"},
	})
	f.StringVar(&s.bundleFile, "trust-bundle", "", "with --signer: PEM file with the roots that it is trusted by (default: those of its ClusterTrustBundle objects)")
	flags.Files(f, "trust-bundle")
}

// chooseSigner is init-ca with --signer.
func (o *initCAOptions) chooseSigner(ctx context.Context, a *app, given *pflag.FlagSet) error {
	for _, name := range []string{"from-cert", "from-key", "ttl", "encrypt", "change-passphrase", "key-command"} {
		if given.Changed(name) {
			return fmt.Errorf("--%s is about an authority, and with --signer there is none", name)
		}
	}
	if o.options.Store == authority.StoreCluster {
		return errors.New("--store=cluster keeps the key of an authority, and with --signer there is none")
	}
	if o.signer.bundleFile != "" {
		text, err := readBounded(o.signer.bundleFile)
		if err != nil {
			return fmt.Errorf("reading --trust-bundle: %w", err)
		}
		o.signer.choice.TrustBundle = string(text)
	}
	_, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	o.signer.choice.TrustDomain = o.options.TrustDomain
	result, err := authority.InitSigner(ctx, authority.SignerOptions{
		Location: authority.Location{Client: client, Dir: o.authorityDir}, Choice: o.signer.choice, Force: o.options.Force,
		Progress: func(line string) { fmt.Fprintln(a.ErrOut, line) },
	})
	if err != nil {
		return err
	}
	if !result.Signer.Settled() {
		fmt.Fprintln(a.ErrOut, "gateways that run go on with what they have; certificates of the signer are of use once "+
			"'kubectl gateway rotate --ca' has brought its roots to all of them")
	}
	return a.printSigner(o.output, result)
}

// signerOutput is the machine-readable result of init-ca with a signer.
type signerOutput struct {
	Signer      string         `json:"signer"`
	TrustDomain string         `json:"trustDomain"`
	Request     signer.Request `json:"request"`
	// Roots are the SHA-256 fingerprints of what the signer is trusted by.
	Roots []string `json:"roots"`
	// NotAfter is when the first of them ends.
	NotAfter time.Time `json:"notAfter"`
	File     string    `json:"file"`
	Backup   string    `json:"backup,omitempty"`
	// TrustBundle is namespace/name of the cluster's object.
	TrustBundle string `json:"trustBundle"`
	Created     bool   `json:"created"`
	Changed     bool   `json:"changed"`
}

func (a *app) printSigner(format string, r *authority.SignerResult) error {
	_, notAfter := ca.Validity(r.Signer.Trust())
	o := signerOutput{
		Signer: r.Signer.Name, TrustDomain: r.Signer.TrustDomain(), Request: r.Signer.Asks(), Roots: r.Signer.Roots(), NotAfter: notAfter.UTC(),
		File: r.File, Backup: r.Backup, TrustBundle: authority.Namespace + "/" + authority.BundleName, Created: r.Created, Changed: r.Changed,
	}
	switch format {
	case "name":
		return a.print("result", "configmap/"+authority.BundleName+"\n")
	case "":
		done := "unchanged"
		switch {
		case r.Created:
			done = "chosen"
		case r.Changed:
			done = "updated"
		}
		return a.print("result", fmt.Sprintf("signer/%s %s (trust domain %s, %s valid until %s)\n",
			o.Signer, done, o.TrustDomain, roots(len(o.Roots)), o.NotAfter.Format(time.DateOnly)))
	}
	return a.printAs("result", o, format)
}

// roots counts roots in words.
func roots(n int) string {
	if n == 1 {
		return "root"
	}
	return fmt.Sprintf("%d roots", n)
}
