//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const (
	// certManagerProgram is what 'make cert-manager' builds, in a module of its own.
	certManagerProgram = "../../bin/cert-manager"
	certManagerModule  = "../certmanager"
	// certManagerSection is the part of the documentation whose commands are run.
	certManagerSection = "### cert-manager as the signer\n"
	certManagerSigner  = "clusterissuers.cert-manager.io/gateways"
	approver           = "../../examples/approve-csr.sh"
)

// startCertManager starts cert-manager with the definitions of its own module.
func startCertManager(t *testing.T) {
	t.Helper()
	program := must.Get(filepath.Abs(certManagerProgram))(t)
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: 'make cert-manager' builds it", err)
	}
	module := runCommand(t.Context(), t, "", "go", "-C", certManagerModule, "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager")
	if module.code != 0 {
		t.Fatal(module.stderr)
	}
	for _, kind := range []string{"issuers", "clusterissuers"} {
		name := kind + ".cert-manager.io"
		atEnd(t, "delete", "customresourcedefinition", name, "--ignore-not-found")
		kubectl(t, "apply", "--server-side", "-f", filepath.Join(strings.TrimSpace(module.stdout), "deploy/crds/cert-manager.io_"+kind+".yaml"))
		// As long as there are no conditions, wait fails.
		awaitKubectl(t, name+" is established", "wait", "--for=condition=Established", "customresourcedefinition/"+name, "--timeout="+patience.String())
	}
	atEnd(t, "delete", "namespace", "cert-manager", "--ignore-not-found")
	kubectl(t, "create", "namespace", "cert-manager")
	start(t, program)
}

// startApprover has the requests of user approved until the test ends.
func startApprover(t *testing.T, user string) {
	t.Helper()
	cmd := exec.Command(approver, certManagerSigner, user)
	// The shell's own processes end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must.Do(t, cmd.Start())
	t.Cleanup(func() {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
			t.Errorf("ending the approver, which should still run: %v", err)
		}
		_ = cmd.Wait() // by that signal
	})
}

// documented returns the commands of a section of docs/OPERATIONS.md.
func documented(t *testing.T, section string) string {
	t.Helper()
	_, text, found := strings.Cut(string(must.Get(os.ReadFile("../../docs/OPERATIONS.md"))(t)), section)
	if !found {
		t.Fatalf("there is no section %q", section)
	}
	_, text, _ = strings.Cut(text, "```sh\n")
	commands, _, _ := strings.Cut(text, "```")
	return commands
}

// TestCertManager has cert-manager issue the certificates of gateways.
func TestCertManager(t *testing.T) {
	startCertManager(t)
	withoutAuthority(t)
	atEnd(t, "delete", "csr", "-l", "app.kubernetes.io/managed-by=kubectl-gateway")
	dir := t.TempDir()
	if out := runCommand(t.Context(), t, "", "bash", "-e", "-o", "pipefail", "-c", "cd "+dir+"\n"+documented(t, certManagerSection)); out.code != 0 {
		t.Fatalf("the documented commands: exit %d\n%s%s", out.code, out.stdout, out.stderr)
	}
	root := must.Get(ca.ParseCertificates(must.Get(os.ReadFile(filepath.Join(dir, "gateways.crt")))(t)))(t)[0]
	ns := namespace(t)
	a, b := twoPods(t, ns)
	fails := func(what string, words []string, args ...string) string {
		t.Helper()
		out := tryGateway(t, append([]string{"-n", ns}, args...)...)
		text := out.stdout + out.stderr
		for _, words := range words {
			if out.code == 0 || !strings.Contains(text, words) {
				t.Errorf("%s: exit %d, without %q: %s", what, out.code, words, text)
			}
		}
		return text
	}

	// It answers no PodCertificateRequest, which is what is asked by unless the user says otherwise.
	choose := func(flags ...string) {
		t.Helper()
		gateway(t, append([]string{"init-ca", "--signer=" + certManagerSigner, "--trust-bundle=" + filepath.Join(dir, "gateways.crt")}, flags...)...)
	}
	choose()
	fails("by PodCertificateRequest", []string{"it has not answered podcertificaterequest/kube-gateway-a-", "--signer-request=csr"}, "enable", "pod/a", "--timeout=20s")
	choose("--signer-request=csr")
	fails("nobody approves", []string{"nobody has approved it", "kubectl certificate approve kube-gateway-a-"}, "enable", "pod/a", unanswered)

	user := kubectl(t, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	startApprover(t, user)
	enable(t, []string{"--mode=strict", "--cert-ttl=1h"}, a, b)
	l := startLoad(a, b.addr(portTraffic), b.clusterIP())
	if got := b.traffic("encrypted", func(c api.Traffic) bool { return c.Inbound.Encrypted > 0 }); got.Inbound.Plaintext != 0 {
		t.Errorf("in plaintext: %+v", got)
	}
	issued := func(p *pod, life time.Duration) string {
		t.Helper()
		cert := p.status().Cert
		if got := cert.NotAfter.Sub(cert.NotBefore); cert.Issuer != ca.Fingerprint(root) || len(cert.Authorities) != 1 || got != life {
			t.Errorf("%s has a certificate of %v: %+v", p, got, cert)
		}
		return cert.Serial
	}
	first := issued(a, time.Hour)
	issued(b, time.Hour)
	gateway(t, "-n", ns, "rotate", "pod/a")
	// Without a wish, the life is cert-manager's own.
	second := issued(a, 90*24*time.Hour)
	if second == first {
		t.Error("the certificate was not renewed")
	}
	l.more(10)
	fails("too short", []string{"600 seconds"}, "rotate", "pod/a", "--cert-ttl=5m")

	// Without its issuer, and with one that is not ready, cert-manager says why in events of the request alone.
	silent := func(what, event string) {
		t.Helper()
		text := fails(what, []string{"it has not answered csr/kube-gateway-a-", "'kubectl describe csr/kube-gateway-a-"}, "rotate", "pod/a", unanswered)
		name := regexp.MustCompile(`csr/kube-gateway-a-[a-z0-9]+`).FindString(text)
		eventually(t, what+": the request shows it", func() error {
			if shown := kubectl(t, "describe", name); !strings.Contains(shown, event) {
				return fmt.Errorf("%s", shown)
			}
			return nil
		})
	}
	issuer := kubectl(t, "get", "clusterissuer", "gateways", "-o", "json")
	secret := kubectl(t, "-n", "cert-manager", "get", "secret", "gateways", "-o", "json")
	kubectl(t, "delete", "clusterissuer", "gateways")
	silent("no issuer", "Referenced ClusterIssuer /gateways not found")
	kubectl(t, "-n", "cert-manager", "delete", "secret", "gateways")
	apply(t, "cert-manager", issuer)
	kubectl(t, "wait", "--for=condition=Ready=False", "clusterissuer/gateways", "--timeout="+patience.String())
	silent("not ready", "does not have a Ready status condition")
	if got := issued(a, 90*24*time.Hour); got != second {
		t.Error("the gateway did not keep its certificate")
	}
	l.more(10)
	apply(t, "cert-manager", secret)
	kubectl(t, "wait", "--for=condition=Ready", "clusterissuer/gateways", "--timeout="+patience.String())
	gateway(t, "-n", ns, "rotate", "pod/a")
	if issued(a, 90*24*time.Hour) == second {
		t.Error("the certificate was not renewed")
	}
	l.more(10)
	l.stopClean(b)
	checkNoKey(t, ns)
	gateway(t, "check", "-n", ns)
}
