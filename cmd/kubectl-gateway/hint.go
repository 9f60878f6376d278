package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// withoutKubeconfig is where client-go looks for a cluster when it knows of none.
const withoutKubeconfig = "http://localhost:8080/"

// adviceOnPod is for what went wrong in a pod in a way of which no more is known.
const adviceOnPod = "'kubectl gateway status' tells how the pod is, and 'kubectl gateway check' looks for what is wrong"

// advice returns what to do about err: the advice that it carries, or else what helps
// with errors of its kind, and "" for those of no known kind.
func advice(err error) string {
	if own := api.Hint(err); own != "" {
		return own
	}
	var (
		dns     *net.DNSError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		verify  *tls.CertificateVerificationError
		request *url.Error
		op      *net.OpError
		path    *os.PathError
		status  apierrors.APIStatus
	)
	switch {
	case errors.As(err, &dns):
		return "the name of the API server is not known here: check --server, --context and the network (VPN?)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "check the clocks of this machine and of the API server; if they are right, its certificate must be renewed"
	case errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid), errors.As(err, &verify):
		return "the kubeconfig is for another cluster, or is outdated: check --context, or get a new one"
	case errors.As(err, &status):
		return statusHint(err)
	case errors.As(err, &request) && strings.HasPrefix(request.URL, withoutKubeconfig):
		return "there is no kubeconfig, or it names no cluster: check --kubeconfig, $KUBECONFIG and --context"
	case errors.As(err, &request), errors.As(err, &op):
		return "is the cluster reachable? 'kubectl cluster-info' should work; check --context, --server and --proxy-url of the kubeconfig"
	case errors.Is(err, context.DeadlineExceeded):
		return "try again, or wait longer with --timeout where there is one; 'kubectl gateway check' looks for what is wrong"
	case errors.As(err, &path):
		return "check the name of the file and who may read it"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "the connection was cut: try again"
	}
	return ""
}

// statusHint is advice for what the API server answered.
func statusHint(err error) string {
	switch {
	case apierrors.IsUnauthorized(err):
		return "the kubeconfig's credentials are refused: log in again"
	case apierrors.IsForbidden(err):
		return "ask for a role that allows it: 'kubectl gateway check' prints the roles that are needed"
	case apierrors.IsNotFound(err):
		return "check the name, -n and --context"
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return "somebody else changed it at the same time: run the command again"
	case apierrors.IsTooManyRequests(err), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err),
		apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err):
		return "the API server is in trouble or overloaded: try again in a while; 'kubectl get --raw /readyz?verbose' tells how it is"
	}
	return "is this the API server of a cluster? 'kubectl gateway check' looks for what is wrong"
}

// usage is advice for what failed in a command before anything else could: its words.
func usage(cmd *cobra.Command) string {
	if !cmd.Runnable() {
		return "'" + cmd.CommandPath() + " --help' lists the commands"
	}
	return "'" + cmd.CommandPath() + " --help' explains it, and 'kubectl gateway check' looks for what is wrong in the cluster"
}
