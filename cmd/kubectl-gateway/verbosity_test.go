package main

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestVerbosityKeepsSecrets searches what -v logs for the keys that enable sends and the token by which
// it may.
func TestVerbosityKeepsSecrets(t *testing.T) {
	const token = "c2VjcmV0LXRva2Vu"
	for _, level := range []string{"6", "7", "8", "9", "10"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.answers["a"] = readyStatus("a")
			// Tokens are sent over TLS alone.
			server := httptest.NewTLSServer(w)
			t.Cleanup(func() {
				server.CloseClientConnections()
				server.Close()
			})
			var secrets []string
			w.on = func(_ http.ResponseWriter, r *http.Request) bool {
				if got := r.Header.Get("Authorization"); got != "Bearer "+token {
					t.Errorf("%s %s with %q", r.Method, r.URL.Path, got)
				}
				if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/secrets") {
					return false
				}
				body := must.Get(io.ReadAll(r.Body))(t)
				r.Body = io.NopCloser(bytes.NewReader(body))
				object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
				must.Do(t, err)
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, value := range object.(*corev1.Secret).Data {
					secrets = append(secrets, keysIn(value)...)
				}
				return false
			}
			config := w.write(strings.NewReplacer(`"SERVER"`, `"`+server.URL+`","insecure-skip-tls-verify":true`, `"user":{}`, `"user":{"token":"`+token+`"}`).Replace(kubeconfig))
			out := runPlugin(t, "enable", "pod/a", "--kubeconfig="+config, "--authority-dir="+w.authority, "--cache-dir="+t.TempDir(), "-v="+level)
			if out.code != 0 {
				t.Fatalf("exit code %d: %s", out.code, out.stderr)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(secrets) == 0 {
				t.Fatal("no key was sent")
			}
			said := out.stdout + out.stderr
			all := append(keysOf(t, w.authority), append(secrets, token)...)
			for _, secret := range all {
				for _, form := range formsOf(secret) {
					if strings.Contains(said, form) {
						t.Errorf("%q is logged", form)
					}
				}
			}
			if level == "6" {
				return
			}
			for _, words := range []string{"/api/v1/namespaces/demo/secrets", "Bearer <masked>"} {
				if !strings.Contains(said, words) {
					t.Errorf("without %q:\n%s", words, said)
				}
			}
			if level != "7" && !strings.Contains(said, `"data":{`) {
				t.Errorf("the Secret is not logged:\n%s", said)
			}
		})
	}
}

// keysOf are the private keys in the directory of an authority.
func keysOf(t *testing.T, dir string) (keys []string) {
	t.Helper()
	must.Do(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		keys = append(keys, keysIn(text)...)
		return err
	}))
	if keys == nil {
		t.Fatal("no key of an authority")
	}
	return keys
}

// keysIn are the private keys in PEM text. Certificates are public.
func keysIn(text []byte) (keys []string) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return keys
		}
		if strings.Contains(block.Type, "PRIVATE KEY") {
			keys = append(keys, string(pem.EncodeToMemory(block)))
		}
	}
}

// formsOf are the forms in which a secret may be in a text: its lines but for those of PEM itself,
// and parts of its base64, wherever in a longer text it begins.
func formsOf(secret string) (forms []string) {
	for line := range strings.Lines(secret) {
		if line = strings.TrimSpace(line); len(line) >= 12 && !strings.HasPrefix(line, "-----") {
			forms = append(forms, line)
		}
	}
	// What begins a PEM block is the same in all of them.
	const begin = 40
	for skip := range 3 {
		if len(secret) < begin+60 {
			break
		}
		forms = append(forms, base64.StdEncoding.EncodeToString([]byte(secret[begin+skip:begin+skip+45])))
	}
	return forms
}
