package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// initCA runs init-ca against servers and directories of one test.
type initCA struct {
	t     *testing.T
	flags []string
	store *apiServer
	data  string
	// all is every byte that any run has printed.
	all bytes.Buffer
}

func newInitCA(t *testing.T) *initCA {
	r := &initCA{t: t, data: t.TempDir(), store: &apiServer{objects: map[string]string{"/api/v1/namespaces/kube-system": kubeSystem}}}
	r.flags = r.store.kubeconfig(t)
	t.Setenv("XDG_DATA_HOME", r.data)
	t.Setenv(authority.EnvDir, "")
	t.Cleanup(func() {
		if strings.Contains(r.all.String(), "PRIVATE KEY") {
			t.Error("a private key was printed")
		}
	})
	return r
}

func (r *initCA) run(args ...string) (stdout, stderr string, err error) {
	r.t.Helper()
	var out, errOut bytes.Buffer
	a := &app{
		IOStreams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut},
		flags:     genericclioptions.NewConfigFlags(false),
	}
	cmd := newInitCACommand(a)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	a.flags.AddFlags(cmd.Flags()) // they must not clash with those of init-ca
	cmd.SetArgs(append(args, r.flags...))
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	err = cmd.ExecuteContext(ctx)
	r.all.Write(out.Bytes())
	r.all.Write(errOut.Bytes())
	if err != nil {
		r.all.WriteString(err.Error() + api.Hint(err))
	}
	return out.String(), errOut.String(), err
}

func (r *initCA) mustRun(args ...string) (stdout, stderr string) {
	r.t.Helper()
	stdout, stderr, err := r.run(args...)
	must.Do(r.t, err)
	return stdout, stderr
}

func (r *initCA) mustFail(hint string, args ...string) error {
	r.t.Helper()
	stdout, _, err := r.run(args...)
	if err == nil || stdout != "" {
		r.t.Fatalf("%v succeeded or printed a result: %q", args, stdout)
	}
	if !strings.Contains(api.Hint(err), hint) {
		r.t.Errorf("%v: %v: hint %q does not speak of %q", args, err, api.Hint(err), hint)
	}
	return err
}

func (r *initCA) object(path string) string {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	return r.store.objects["/api/v1/namespaces/kube-system/"+path]
}

func TestInitCA(t *testing.T) {
	r := newInitCA(t)
	stdout, stderr := r.mustRun()
	if !regexp.MustCompile(`^authority/[0-9a-f]{16} created \(trust domain cluster\.local, valid until 20\d\d-\d\d-\d\d\)\n$`).MatchString(stdout) {
		t.Errorf("stdout %q", stdout)
	}
	dir := filepath.Join(r.data, "kubectl-gateway", "7d2c7bb0-0000-4000-8000-000000000000")
	if !strings.Contains(stderr, authority.Path(dir)) || !strings.Contains(stderr, "kube-gateway-trust") {
		t.Errorf("stderr %q", stderr)
	}
	first := must.Get(authority.LoadDir(dir))(t)
	if years := time.Until(first.NotAfter()).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("valid for %.1f years", years)
	}
	if !strings.Contains(r.object("configmaps/kube-gateway-trust"), "BEGIN CERTIFICATE") || r.object("secrets/kube-gateway-authority") != "" {
		t.Error("the cluster does not have the trust bundle alone")
	}

	stdout, stderr = r.mustRun()
	if !strings.Contains(stdout, " unchanged ") || stderr != "" {
		t.Errorf("again: stdout %q, stderr %q", stdout, stderr)
	}
	r.mustFail("--force", "--trust-domain=other.local")

	stdout, _ = r.mustRun("--store=cluster", "-o", "name")
	if stdout != "configmap/kube-gateway-trust\nsecret/kube-gateway-authority\n" {
		t.Errorf("names %q", stdout)
	}
	stdout, stderr = r.mustRun("--force", "--store=cluster", "--trust-domain=other.local", "--ttl=90d")
	if !strings.Contains(stdout, " replaced (trust domain other.local") || !strings.Contains(stderr, "old authority kept as") || !strings.Contains(stderr, "kubectl gateway rotate --all -A") {
		t.Errorf("by force: stdout %q, stderr %q", stdout, stderr)
	}
	second := must.Get(authority.LoadDir(dir))(t)
	if days := time.Until(second.NotAfter()).Hours() / 24; second.Fingerprint() == first.Fingerprint() || days < 89 || days > 90 {
		t.Errorf("by force: %v, valid for %.1f days", second, days)
	}
}

func TestInitCAOutput(t *testing.T) {
	r := newInitCA(t)
	dir := filepath.Join(t.TempDir(), "elsewhere")
	stdout, _ := r.mustRun("--dir", dir, "-o", "json")
	var got map[string]any
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	a := must.Get(authority.LoadDir(dir))(t)
	for key, want := range map[string]any{
		"trustDomain": "cluster.local", "fingerprint": a.Fingerprint(), "file": authority.Path(dir), "created": true, "changed": true,
		"trustBundle": "kube-system/kube-gateway-trust", "secret": nil, "backup": nil,
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	t.Setenv(authority.EnvDir, dir)
	if stdout, _ := r.mustRun("-o", "yaml"); !strings.Contains(stdout, "changed: false\n") || !strings.Contains(stdout, "fingerprint: ") {
		t.Errorf("yaml %q", stdout)
	}
}

func TestInitCAFromFiles(t *testing.T) {
	r := newInitCA(t)
	certFile, keyFile := writeCA(t)
	r.mustFail("", "--from-cert", certFile)
	r.mustFail("", "--from-cert", certFile, "--from-key", filepath.Join(r.data, "missing"))
	r.mustFail("--from-key", "--from-cert", certFile, "--from-key", writeFile(t, pki.Root(t).KeyPEM(t)))
	r.mustFail("--ttl", "--from-cert", certFile, "--from-key", keyFile, "--ttl=1h")
	// The two files exchanged: neither error nor anything else shows the key.
	r.mustFail("", "--from-cert", keyFile, "--from-key", certFile)
	stdout, _ := r.mustRun("--from-cert", certFile, "--from-key", keyFile, "--trust-domain=prod.example.org")
	if !strings.Contains(stdout, " created (trust domain prod.example.org") {
		t.Errorf("stdout %q", stdout)
	}
	if stdout, _ := r.mustRun("--from-cert", certFile, "--from-key", keyFile); !strings.Contains(stdout, " unchanged ") {
		t.Errorf("again: stdout %q", stdout)
	}
}

// keyProgram is a key command: its argument is the file with the key.
const keyProgram = `#!/bin/sh
set -eu
request=$(cat)
field() { printf %s "$request" | jq -r "$1"; }
answer() { jq -nc --arg field "$1" --arg value "$2" '{apiVersion: "keycommand.kubectl-gateway.github.io/v1", ($field): $value}'; }
case $(field .operation) in
public-key) answer publicKey "$(openssl pkey -in "$1" -pubout -outform DER | base64 -w0)" ;;
sign) answer signature "$(field .message | base64 -d | openssl dgst -sha256 -sign "$1" | base64 -w0)" ;;
esac
`

func TestInitCAKeyCommand(t *testing.T) {
	for _, name := range []string{"jq", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	certFile, keyFile := writeCA(t)
	program := writeFile(t, []byte(keyProgram))
	must.Do(t, os.Chmod(program, 0o700))
	r := newInitCA(t)
	t.Chdir(filepath.Dir(program))
	flags := []string{"--key-command=./" + filepath.Base(program), "--key-arg=" + keyFile}
	r.mustFail("", "--key-arg=x")
	r.mustFail("either", append(flags, "--encrypt")...)
	r.mustFail("either", append(flags, "--from-cert="+certFile, "--from-key="+keyFile)...)
	stdout, _ := r.mustRun(append(flags, "--from-cert="+certFile)...)
	if !strings.Contains(stdout, "key held by "+program) {
		t.Errorf("stdout %q", stdout)
	}
	// The path is one of any directory.
	t.Chdir(t.TempDir())
	if stdout, _ := r.mustRun("-o", "json"); !strings.Contains(stdout, `"key": "command"`) {
		t.Errorf("again: stdout %q", stdout)
	}
	stdout, _ = r.mustRun("--force", "--key-command="+program, "--key-arg="+keyFile)
	if !strings.Contains(stdout, "replaced") || !strings.Contains(stdout, "key held by") {
		t.Errorf("a new certificate: stdout %q", stdout)
	}
}

func TestInitCARefusesFlags(t *testing.T) {
	r := newInitCA(t)
	r.mustFail("", "-o", "xml")
	r.mustFail("local or cluster", "--store=usb")
	r.mustFail("90d", "--ttl=soon")
	r.mustFail("90d", "--ttl=0d")
	r.mustFail("cluster.local", "--trust-domain=https://x")
	r.mustFail("", "unexpected")
	if entries, err := os.ReadDir(r.data); err != nil || len(entries) != 0 {
		t.Errorf("something was written: %v, %v", entries, err)
	}
}

func TestInitCADamaged(t *testing.T) {
	r := newInitCA(t)
	dir := t.TempDir()
	r.mustRun("--dir", dir)
	text := must.Get(os.ReadFile(authority.Path(dir)))(t)
	for name, damage := range map[string]func() error{
		"cut":     func() error { return os.WriteFile(authority.Path(dir), text[:len(text)/2], 0o600) },
		"exposed": func() error { return os.Chmod(authority.Path(dir), 0o644) },
	} {
		must.Do(t, os.WriteFile(authority.Path(dir), text, 0o600))
		// Writing does not change the mode of a file that exists.
		must.Do(t, os.Chmod(authority.Path(dir), 0o600))
		must.Do(t, damage())
		before := must.Get(os.ReadFile(authority.Path(dir)))(t)
		want := map[string]error{"cut": ca.ErrDamaged, "exposed": authority.ErrExposed}[name]
		if err := r.mustFail("--force", "--dir", dir); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if after, err := os.ReadFile(authority.Path(dir)); err != nil || !slices.Equal(before, after) {
			t.Errorf("%s: the file was changed: %v", name, err)
		}
	}
}

func writeFile(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	must.Do(t, os.WriteFile(path, text, 0o600))
	return path
}

// writeCA writes an authority as an operator might have one.
func writeCA(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	root := pki.Root(t)
	return writeFile(t, root.CertPEM()), writeFile(t, root.KeyPEM(t))
}
