package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/answer"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
)

// withoutKubeconfig is client-go's default server.
const withoutKubeconfig = "http://localhost:8080/"

// adviceOnPod is the advice on a pod's error of unknown kind.
const adviceOnPod = "'kubectl gateway status' tells how the pod is, and 'kubectl gateway check' looks for what is wrong"

// told returns a pod's error for the user: what failed, and what to do about it.
func told(err error) (what, hint string) {
	return words(err), line(cmp.Or(advice(err), adviceOnPod))
}

// explain is told without advice on errors of unknown kinds.
func explain(err error) (what, hint string) { return words(err), advice(err) }

// words returns err in one harmless line. It translates the words of Go's libraries.
func words(err error) string {
	text := err.Error()
	replace := func(part error, with string) { text = strings.Replace(text, part.Error(), with, 1) }
	request, page := find[*url.Error](err), find[*answer.WebPage](err)
	syntax, kind := find[*json.SyntaxError](err), find[*json.UnmarshalTypeError](err)
	switch {
	case request != nil && page != nil:
		replace(request, page.Error())
	case request != nil:
		replace(request, requestWords(request))
	case syntax != nil:
		replace(syntax, "it is not JSON")
	case kind != nil:
		replace(kind, "it is JSON of another kind")
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, context.DeadlineExceeded):
		replace(context.DeadlineExceeded, "it takes too long")
	}
	for _, l := range libraries {
		text = l.pattern.ReplaceAllString(text, l.with)
	}
	if apierrors.IsUnauthorized(err) && !strings.Contains(text, "Unauthorized") {
		text += " (Unauthorized)"
	}
	return line(text)
}

// find returns the error of type T in err, or nil.
func find[T error](err error) T {
	found, _ := errors.AsType[T](err)
	return found
}

// libraries are words of client-go that no error type identifies.
var libraries = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(` but did not return more information \([a-z]+ [a-z./]+\)`), ""},
	{regexp.MustCompile(`unable to parse the server version: .*`), "it is not JSON"},
	{regexp.MustCompile(`kubeconfig: error loading config file ("[^"]*"): `), "kubeconfig $1: "},
	{regexp.MustCompile(`: error sending request: `), ": "},
	{regexp.MustCompile(`(?:Get|Post) "[^"]*": (https?://\S+ (?:answers with|sends to) a web page)`), "$1"},
	{regexp.MustCompile(`(?:Get|Post) "(https?://[^/"]+)[^"]*": `), "no answer from $1: "},
}

// aPage finds a WebPage whose type was lost in the older protocol of exec.
var aPage = regexp.MustCompile(`(answers with|sends to) a web page`)

// requestWords names the server that did not answer, and the reason.
func requestWords(request *url.Error) string {
	server := "the API server"
	if at, err := url.Parse(request.URL); err == nil && at.Host != "" {
		server = at.Scheme + "://" + at.Host
	}
	why := request.Err.Error()
	dns, errno, op := find[*net.DNSError](request), find[syscall.Errno](request), find[*net.OpError](request)
	switch {
	case request.Timeout(), errors.Is(request, context.DeadlineExceeded):
		why = "it takes too long"
	case dns != nil && dns.IsNotFound:
		why = fmt.Sprintf("the name %s is not known", dns.Name)
	case dns != nil:
		why = fmt.Sprintf("the name %s cannot be looked up", dns.Name)
	case errno != 0:
		why = errno.Error()
	case op != nil:
		why = op.Err.Error()
	case errors.Is(request, io.EOF), errors.Is(request, io.ErrUnexpectedEOF):
		why = "the connection was cut"
	}
	return "no answer from " + server + ": " + why
}

// advice returns what to do about err: its own hint, or else advice on errors of its
// kind. It is "" for errors of unknown kinds.
func advice(err error) string {
	if err == nil {
		return ""
	}
	own, missing := api.Hint(err), rights.Hint(err.Error())
	page, request, invalid := find[*answer.WebPage](err), find[*url.Error](err), find[x509.CertificateInvalidError](err)
	switch {
	case page != nil:
		return page.Hint()
	case aPage.MatchString(err.Error()):
		return (&answer.WebPage{}).Hint()
	case request != nil && strings.HasPrefix(request.URL, withoutKubeconfig):
		return "there is no kubeconfig, or it names no cluster: check --kubeconfig, $KUBECONFIG and --context"
	case errors.Is(err, remote.ErrPodGone):
		return "name the pod that replaces it: 'kubectl get pods' lists them"
	case own != "" && missing != "" && !strings.Contains(own, "auth can-i"):
		_, question, _ := strings.Cut(missing, "; ")
		return own + "; " + question
	case own != "":
		return own
	case missing != "":
		return missing + ", or check --context and --as"
	case errors.As(err, new(*net.DNSError)):
		return "the name of the API server is not known here: check --server, --context and the network (VPN?)"
	case invalid.Reason == x509.Expired:
		return "check the clocks of this machine and of the API server; if they are right, its certificate must be renewed"
	case errors.As(err, new(x509.UnknownAuthorityError)), errors.As(err, new(x509.HostnameError)), errors.As(err, new(x509.CertificateInvalidError)),
		errors.As(err, new(*tls.CertificateVerificationError)):
		return "the kubeconfig is for another cluster, or is outdated: check --context, or get a new one"
	case errors.As(err, new(apierrors.APIStatus)):
		return statusHint(err)
	case request != nil, errors.As(err, new(*net.OpError)):
		return "is the cluster reachable? 'kubectl cluster-info' should work; check --context, --server and --proxy-url of the kubeconfig"
	case errors.Is(err, context.DeadlineExceeded):
		return "try again, or wait longer with --timeout where there is one; 'kubectl gateway check' looks for what is wrong"
	case errors.As(err, new(*json.SyntaxError)), errors.As(err, new(*json.UnmarshalTypeError)):
		return "what answers is not what is expected there: 'kubectl gateway version' tells the server's version, 'kubectl gateway status' those of the gateways"
	case errors.As(err, new(*os.PathError)):
		return "check the name of the file and who may read it"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "the connection was cut: try again"
	}
	return ""
}

// statusHint is advice on an answer of the API server.
func statusHint(err error) string {
	switch {
	case apierrors.IsUnauthorized(err):
		return "the kubeconfig's credentials are refused: log in again, or choose another --context or --user"
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

// usage is advice on an error of the command line.
func usage(cmd *cobra.Command) string {
	if !cmd.Runnable() {
		return "'" + cmd.CommandPath() + " --help' lists the commands"
	}
	return "'" + cmd.CommandPath() + " --help' explains it, and 'kubectl gateway check' looks for what is wrong in the cluster"
}

// reportMissing prints an error for each pod that was not found, and returns errReported
// if there are any.
func (a *app) reportMissing(missing error) error {
	if missing == nil {
		return nil
	}
	printErrors(a.ErrOut, missing, "")
	return errReported
}

// printErrors prints the errors that err joins, a line each, and each hint once; otherwise
// is the hint of an error without one.
func printErrors(w io.Writer, err error, otherwise string) {
	var hints []string
	for _, err := range targets.Errors(err) {
		fmt.Fprintf(w, "error: %s\n", words(err))
		if hint := cmp.Or(advice(err), otherwise); hint != "" && !slices.Contains(hints, hint) {
			hints = append(hints, hint)
		}
	}
	for _, hint := range hints {
		fmt.Fprintf(w, "hint: %s\n", line(hint))
	}
}
