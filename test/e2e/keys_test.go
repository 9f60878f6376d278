//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// keyProgram is a key command in shell, without its first line: its argument is the file with the key.
const keyProgram = `set -eu
request=$(cat)
field() { printf %s "$request" | jq -r "$1"; }
answer() { jq -nc --arg field "$1" --arg value "$2" '{apiVersion: "keycommand.kubectl-gateway.github.io/v1", ($field): $value}'; }
case $(field .operation) in
public-key) answer publicKey "$(openssl pkey -in "$1" -pubout -outform DER | base64 -w0)" ;;
sign) answer signature "$(field .message | base64 -d | openssl dgst -sha256 -sign "$1" | base64 -w0)" ;;
esac`

// TestHeldKeys enables two pods by the cluster's authority, once with its key encrypted, and once held by a program. Only
// copies of the authority change.
func TestHeldKeys(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	uid := kubectl(t, "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
	text := must.Get(os.ReadFile(filepath.Join(os.Getenv("XDG_DATA_HOME"), "kubectl-gateway", uid, "authority.pem")))(t)
	write := func(name string, text []byte, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		must.Do(t, os.WriteFile(path, text, mode))
		return path
	}

	encrypted := filepath.Dir(write("authority.pem", text, 0o600))
	must.Do(t, os.Chmod(encrypted, 0o700))
	passphrase := write("passphrase", []byte("correct horse battery\n"), 0o600)
	gateway(t, "init-ca", "--encrypt", "--dir="+encrypted, "--passphrase-file="+passphrase)
	if left := must.Get(os.ReadFile(filepath.Join(encrypted, "authority.pem")))(t); bytes.Contains(left, []byte("PRIVATE KEY")) {
		t.Error("the key lies in the open")
	}
	wrong := write("wrong", []byte("incorrect horse\n"), 0o600)
	out := tryGateway(t, "-n", ns, "enable", a.String(), "--authority-dir="+encrypted, "--passphrase-file="+wrong)
	if out.code != 1 || !strings.Contains(out.stderr, "passphrase of the authority is wrong") {
		t.Errorf("with a wrong passphrase: exit %d, %s", out.code, out.stderr)
	}
	enable(t, []string{"--mode=strict", "--authority-dir=" + encrypted, "--passphrase-file=" + passphrase}, a)

	at := bytes.Index(text, []byte("-----BEGIN CERTIFICATE"))
	certificate, key := write("ca.crt", text[at:], 0o600), write("ca.key", text[bytes.Index(text, []byte("-----BEGIN PRIVATE")):at], 0o600)
	program := write("key-program", []byte("#!/bin/sh\n"+keyProgram+"\n"), 0o700)
	held := filepath.Join(t.TempDir(), "held")
	gateway(t, "init-ca", "--from-cert="+certificate, "--key-command="+program, "--key-arg="+key, "--dir="+held)
	enable(t, []string{"--mode=strict", "--delivery=csr", "--authority-dir=" + held}, b)
	gateway(t, "-n", ns, "rotate", a.String(), "--authority-dir="+held)

	a.talk(b.addr(portEcho), "hello")
	a.traffic("the connection is encrypted", func(traffic api.Traffic) bool { return traffic.Outbound.Encrypted > 0 })
}
