package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// attested is a release of one tag, with what it takes to vouch for it.
type attested struct {
	t                          *testing.T
	root, dir, private, public string
	commit                     string
}

// newAttested makes a tagged source, a release of two files, and a key.
func newAttested(t *testing.T) *attested {
	t.Helper()
	work := t.TempDir()
	a := &attested{t: t, root: filepath.Join(work, "source"), dir: filepath.Join(work, "release")}
	a.private, a.public = keyPair(t, ecdsaKey(t))
	run(t, "git", "init", "--quiet", a.root)
	write(t, filepath.Join(a.root, "go.mod"), "module example.com/m\n\ngo 1.27.3\n")
	write(t, filepath.Join(a.root, "CHANGELOG.md"), "## v0.1.0 (2030-01-01)\n")
	run(t, "git", "-C", a.root, "add", "--all")
	run(t, "git", "-C", a.root, "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "-m", "v0.1.0")
	run(t, "git", "-C", a.root, "tag", "v0.1.0")
	a.commit = strings.TrimSpace(run(t, "git", "-C", a.root, "rev-parse", "HEAD"))
	run(t, "mkdir", a.dir)
	a.files("one.tar.gz", "two.zip")
	return a
}

// files makes files, and checksums.txt of all of them.
func (a *attested) files(names ...string) {
	a.t.Helper()
	sums := map[string]string{}
	for _, name := range names {
		write(a.t, filepath.Join(a.dir, name), "content of "+name)
		sums[name] = a.sum(name)
	}
	if err := writeChecksums(filepath.Join(a.dir, "checksums.txt"), sums); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attested) sum(name string) string {
	a.t.Helper()
	sum, err := checksum(filepath.Join(a.dir, name))
	if err != nil {
		a.t.Fatal(err)
	}
	return sum
}

// sign does what "release --attest" does.
func (a *attested) sign(more ...string) error {
	return command(a.t.Context(), append([]string{"--attest", "--source", a.root, "--version", "v0.1.0", "--output", a.dir,
		"--key", a.private, "--builder", "https://example.com/builder"}, more...))
}

// verify does what "release --verify-provenance" does.
func (a *attested) verify(key string) error {
	return command(a.t.Context(), []string{"--verify-provenance", "--output", a.dir, "--key", key})
}

func ecdsaKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// keyPair writes both halves of a key to files.
func keyPair(t *testing.T, key crypto.Signer) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	private, public = filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.pub")
	for path, encode := range map[string]func() (string, []byte, error){
		private: func() (string, []byte, error) {
			der, err := x509.MarshalPKCS8PrivateKey(key)
			return "PRIVATE KEY", der, err
		},
		public: func() (string, []byte, error) {
			der, err := x509.MarshalPKIXPublicKey(key.Public())
			return "PUBLIC KEY", der, err
		},
	} {
		kind, der, err := encode()
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	return private, public
}

// envelope reads what was signed.
func (a *attested) envelope() (e dsse.Envelope) {
	a.t.Helper()
	if err := json.Unmarshal([]byte(read(a.t, filepath.Join(a.dir, provenanceFile))), &e); err != nil {
		a.t.Fatal(err)
	}
	return e
}

// TestProvenance compares the whole statement: its subjects are the files of the release and the images.
func TestProvenance(t *testing.T) {
	a := newAttested(t)
	archive := filepath.Join(t.TempDir(), "image.tar")
	program := filepath.Join(t.TempDir(), "program")
	write(t, program, "no program")
	const image = "example.com/team/kube-gateway:v0.1.0"
	run(t, "go", "-C", filepath.Join("..", "image"), "run", ".", "--name", image, "--output", archive, "amd64="+program)
	digest, err := imageDigest(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.sign("--image", image+"="+archive); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(a.envelope().Payload)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	subject := func(name, sum string) map[string]any {
		return map[string]any{"name": name, "digest": map[string]any{"sha256": sum}}
	}
	want = map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{subject(image, digest), subject("one.tar.gz", a.sum("one.tar.gz")), subject("two.zip", a.sum("two.zip"))},
		"predicateType": "https://slsa.dev/provenance/v1",
		"predicate": map[string]any{
			"buildDefinition": map[string]any{
				"buildType":          "https://github.com/kubectl-gateway/kubectl-gateway/blob/main/CONTRIBUTING.md#releases",
				"externalParameters": map[string]any{"version": "v0.1.0"},
				"resolvedDependencies": []any{
					map[string]any{
						"uri":    "git+https://github.com/kubectl-gateway/kubectl-gateway@refs/tags/v0.1.0",
						"digest": map[string]any{"gitCommit": a.commit},
					},
					map[string]any{"name": "go1.27.3", "uri": "https://go.dev/dl/"},
				},
			},
			"runDetails": map[string]any{"builder": map[string]any{"id": "https://example.com/builder"}},
		},
	}
	if err := json.Unmarshal(payload, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v: the statement is\n%s\nwant\n%v", err, payload, want)
	}
	if err := a.verify(a.public); err != nil {
		t.Error(err)
	}
}

// TestTamperedProvenance changes what was signed, or what it is about.
func TestTamperedProvenance(t *testing.T) {
	for name, c := range map[string]struct {
		tamper func(t *testing.T, a *attested)
		want   string
	}{
		"an archive": {func(t *testing.T, a *attested) { write(t, filepath.Join(a.dir, "two.zip"), "other") }, "checksums.txt says"},
		"an archive and checksums.txt": {func(t *testing.T, a *attested) {
			write(t, filepath.Join(a.dir, "two.zip"), "other")
			sums := map[string]string{"one.tar.gz": a.sum("one.tar.gz"), "two.zip": a.sum("two.zip")}
			if err := writeChecksums(filepath.Join(a.dir, "checksums.txt"), sums); err != nil {
				t.Fatal(err)
			}
		}, "the statement says"},
		"one more archive": {func(t *testing.T, a *attested) { a.files("one.tar.gz", "two.zip", "three.zip") }, "three.zip has"},
		"the statement": {func(t *testing.T, a *attested) {
			e := a.envelope()
			payload, err := base64.StdEncoding.DecodeString(e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			e.Payload = base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(payload), "v0.1.0", "v0.1.1", 1)))
			text, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(a.dir, provenanceFile), string(text))
		}, "the signature of"},
		"the key": {func(t *testing.T, a *attested) { _, a.public = keyPair(t, ecdsaKey(t)) }, "the signature of"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttested(t)
			if err := a.sign(); err != nil {
				t.Fatal(err)
			}
			c.tamper(t, a)
			if err := a.verify(a.public); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q", err, c.want)
			}
		})
	}
}

// TestProvenanceIsRefused: nothing is signed that is not so.
func TestProvenanceIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, a *attested) []string
		want   string
	}{
		"no builder": {func(*testing.T, *attested) []string { return []string{"--builder", ""} }, "--builder is needed"},
		"not the tag": {func(t *testing.T, a *attested) []string {
			write(t, filepath.Join(a.root, "stray.go"), "package m\n")
			return nil
		}, "stray.go"},
		"not the files": {func(t *testing.T, a *attested) []string {
			write(t, filepath.Join(a.dir, "one.tar.gz"), "other")
			return nil
		}, "checksums.txt says"},
		"not an image": {func(t *testing.T, a *attested) []string {
			return []string{"--image", "example.com/x:v0.1.0=" + filepath.Join(a.dir, "missing.tar")}
		}, "missing.tar"},
		"a key of another type": {func(t *testing.T, a *attested) []string {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			private, _ := keyPair(t, key)
			return []string{"--key", private}
		}, "not ECDSA"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttested(t)
			if err := a.sign(c.change(t, a)...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q", err, c.want)
			}
			if exists(filepath.Join(a.dir, provenanceFile)) {
				t.Error("something was signed all the same")
			}
		})
	}
}
