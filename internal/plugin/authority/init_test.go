package authority

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// operator is somebody's machine, working on a cluster.
type operator struct {
	t       *testing.T
	cluster *fake.Clientset
	dir     string
}

func newOperator(t *testing.T, cluster *fake.Clientset) operator {
	return operator{t, cluster, filepath.Join(t.TempDir(), "authority")}
}

func (o operator) run(options InitOptions) (*InitResult, error) {
	o.t.Helper()
	var progress strings.Builder
	options.Client, options.Dir, options.Getenv = o.cluster, o.dir, env(nil)
	options.Progress = func(line string) { progress.WriteString(line + "\n") }
	result, err := Init(o.t.Context(), options)
	if strings.Contains(progress.String(), "PRIVATE KEY") {
		o.t.Error("progress shows a key")
	}
	if err != nil {
		checkMessage(o.t, "init", err)
	} else if result.Changed == (progress.Len() == 0) {
		o.t.Errorf("changed %v, but said %q", result.Changed, progress.String())
	}
	return result, err
}

func (o operator) mustRun(options InitOptions) *InitResult {
	o.t.Helper()
	result, err := o.run(options)
	if err != nil {
		o.t.Fatal(err)
	}
	return result
}

// refused runs init and requires that it fails with want and a hint, and that
// nothing has changed on the machine or in the cluster.
func (o operator) refused(options InitOptions, want error, hint string) {
	o.t.Helper()
	before, beforeWrites := o.file(), writes(o.cluster)
	_, err := o.run(options)
	if err == nil || want != nil && !errors.Is(err, want) {
		o.t.Errorf("%v, want %v", err, want)
	}
	if !strings.Contains(api.Hint(err), hint) {
		o.t.Errorf("hint %q does not speak of %q", api.Hint(err), hint)
	}
	if !bytes.Equal(before, o.file()) || writes(o.cluster) != beforeWrites {
		o.t.Error("something was changed")
	}
}

func (o operator) file() []byte {
	text, err := os.ReadFile(Path(o.dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		o.t.Fatal(err)
	}
	return text
}

// secretKeys counts objects of the cluster that hold a private key.
func secretKeys(t *testing.T, cluster *fake.Clientset) int {
	t.Helper()
	n := 0
	secrets, err := cluster.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets.Items {
		for _, data := range s.Data {
			n += bytes.Count(data, []byte("PRIVATE KEY-----\n")) / 2
		}
	}
	maps, err := cluster.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps.Items {
		if strings.Contains(m.String(), "PRIVATE") {
			t.Errorf("configmap %s holds a private key", m.Name)
		}
	}
	return n
}

func TestInitOnceAndAgain(t *testing.T) {
	o := newOperator(t, newCluster("uid-1"))
	first := o.mustRun(InitOptions{TTL: 48 * time.Hour})
	if !first.Created || !first.Changed || first.InCluster || first.File != Path(o.dir) || first.Backup != "" {
		t.Errorf("first: %+v", first)
	}
	if d := time.Until(first.Authority.NotAfter()); d > 48*time.Hour || d < 47*time.Hour {
		t.Errorf("valid for %v", d)
	}
	if n := secretKeys(t, o.cluster); n != 0 {
		t.Errorf("%d keys in the cluster", n)
	}
	before, beforeWrites := o.file(), writes(o.cluster)
	for _, options := range []InitOptions{{}, {TrustDomain: ca.DefaultTrustDomain}, {Store: StoreLocal, TTL: time.Hour}} {
		again := o.mustRun(options)
		if again.Created || again.Changed || !again.Authority.Equal(first.Authority) {
			t.Errorf("again: %+v", again)
		}
	}
	if !bytes.Equal(before, o.file()) || writes(o.cluster) != beforeWrites {
		t.Error("running again changed something")
	}
	o.refused(InitOptions{TrustDomain: "other.local"}, ErrExists, "--force")

	// What the cluster has lost comes back.
	if err := o.cluster.CoreV1().ConfigMaps(Namespace).Delete(t.Context(), BundleName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	repaired := o.mustRun(InitOptions{})
	if repaired.Created || !repaired.Changed {
		t.Errorf("repaired: %+v", repaired)
	}
	if b, err := FetchBundle(t.Context(), o.cluster); err != nil || !b.Holds(first.Authority) {
		t.Errorf("bundle %v, %v", b, err)
	}
}

func TestInitSecondOperator(t *testing.T) {
	cluster := newCluster("uid-1")
	first := newOperator(t, cluster)
	made := first.mustRun(InitOptions{})
	second := newOperator(t, cluster)
	second.refused(InitOptions{}, ErrForeign, "copy of authority.pem")
	second.refused(InitOptions{Store: StoreCluster}, ErrForeign, "--force")

	// A copy of the file is all that the second one needs.
	if err := CreateDir(second.dir, made.Authority); err != nil {
		t.Fatal(err)
	}
	if result := second.mustRun(InitOptions{}); result.Changed {
		t.Errorf("with a copy: %+v", result)
	}

	// By force, the first one's becomes the foreign one.
	replaced := second.mustRun(InitOptions{Force: true})
	if !replaced.Created || replaced.Backup == "" || replaced.Authority.Equal(made.Authority) {
		t.Errorf("replaced: %+v", replaced)
	}
	first.refused(InitOptions{}, ErrForeign, "--force")
	if _, err := Load(t.Context(), LoadOptions{Client: cluster, Dir: first.dir}); !errors.Is(err, ErrForeign) {
		t.Errorf("first loads: %v", err)
	}
}

func TestInitStoreCluster(t *testing.T) {
	cluster := newCluster("uid-1")
	first := newOperator(t, cluster)
	made := first.mustRun(InitOptions{})
	added := first.mustRun(InitOptions{Store: StoreCluster})
	if added.Created || !added.Changed || !added.InCluster || secretKeys(t, cluster) != 1 {
		t.Errorf("added: %+v", added)
	}
	if again := first.mustRun(InitOptions{Store: StoreCluster}); again.Changed || !again.InCluster {
		t.Errorf("again: %+v", again)
	}
	// Another machine finds it there and needs no file of its own.
	second := newOperator(t, cluster)
	found := second.mustRun(InitOptions{})
	if found.Changed || found.File != "" || !found.InCluster || !found.Authority.Equal(made.Authority) || second.file() != nil {
		t.Errorf("found: %+v", found)
	}
	second.refused(InitOptions{TrustDomain: "other.local"}, ErrExists, "--force")
	// A replacement must not leave a dead key in the cluster.
	first.refused(InitOptions{Force: true}, ErrExists, "--store=cluster")
	replaced := first.mustRun(InitOptions{Force: true, Store: StoreCluster, TrustDomain: "other.local"})
	if stored, err := FetchAuthority(t.Context(), cluster); err != nil || !stored.Equal(replaced.Authority) || stored.TrustDomain() != "other.local" {
		t.Errorf("stored %v, %v", stored, err)
	}
	if bundle, err := FetchBundle(t.Context(), cluster); err != nil || !bundle.Holds(replaced.Authority) {
		t.Errorf("bundle %v, %v", bundle, err)
	}
	// A file that is not what the Secret holds: nobody can tell which is right.
	third := newOperator(t, cluster)
	if err := CreateDir(third.dir, made.Authority); err != nil {
		t.Fatal(err)
	}
	third.refused(InitOptions{}, ErrForeign, "--force")
}

func TestInitImport(t *testing.T) {
	o := newOperator(t, newCluster("uid-1"))
	root := pki.Sign(t, "company root", pki.ECKey(t, elliptic.P384()), nil, nil)
	other := pki.Sign(t, "another root", pki.ECKey(t, elliptic.P384()), nil, nil)
	brought := InitOptions{CertPEM: root.CertPEM(), KeyPEM: root.KeyPEM(t), TrustDomain: "prod.example.org"}
	o.refused(InitOptions{CertPEM: root.CertPEM()}, nil, "--from-key")
	o.refused(InitOptions{KeyPEM: root.KeyPEM(t)}, nil, "--from-cert")
	o.refused(InitOptions{CertPEM: root.CertPEM(), KeyPEM: root.KeyPEM(t), TTL: time.Hour}, nil, "--ttl")
	o.refused(InitOptions{CertPEM: root.CertPEM(), KeyPEM: other.KeyPEM(t)}, ca.ErrMismatch, "--from-key")
	if result := o.mustRun(brought); !result.Created || !result.Authority.Certificate().Equal(root.Cert) {
		t.Errorf("imported: %+v", result)
	}
	if result := o.mustRun(brought); result.Changed {
		t.Errorf("imported again: %+v", result)
	}
	if result := o.mustRun(InitOptions{CertPEM: root.CertPEM(), KeyPEM: root.KeyPEM(t)}); result.Changed || result.Authority.TrustDomain() != "prod.example.org" {
		t.Errorf("imported again without naming the trust domain: %+v", result)
	}
	o.refused(InitOptions{CertPEM: other.CertPEM(), KeyPEM: other.KeyPEM(t)}, ErrExists, "--force")
	if result := o.mustRun(InitOptions{CertPEM: other.CertPEM(), KeyPEM: other.KeyPEM(t), Force: true}); result.Backup == "" || !result.Authority.Certificate().Equal(other.Cert) {
		t.Errorf("imported by force: %+v", result)
	}
	// The owner of the published authority can set up another machine with it.
	second := newOperator(t, o.cluster)
	if result := second.mustRun(InitOptions{CertPEM: other.CertPEM(), KeyPEM: other.KeyPEM(t)}); !result.Created {
		t.Errorf("second machine: %+v", result)
	}
}

func TestInitLeavesDamagedAlone(t *testing.T) {
	o := newOperator(t, newCluster("uid-1"))
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(Path(o.dir), []byte("half an auth"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.refused(InitOptions{}, ca.ErrDamaged, "--force")
	result := o.mustRun(InitOptions{Force: true})
	if kept, err := os.ReadFile(result.Backup); err != nil || string(kept) != "half an auth" {
		t.Errorf("backup %q, %v", kept, err)
	}
}

func TestInitRefusesOptions(t *testing.T) {
	o := newOperator(t, newCluster("uid-1"))
	o.refused(InitOptions{Store: "elsewhere"}, nil, "local or cluster")
	o.refused(InitOptions{TrustDomain: "Not A Domain"}, nil, "cluster.local")
}

// Where the work is cut off after the key was written, the next run ends it.
func TestInitResumes(t *testing.T) {
	cluster := newCluster("uid-1")
	o := newOperator(t, cluster)
	chain := cluster.ReactionChain
	refuse(cluster, "create", "configmaps", forbidden("configmaps"))
	if _, err := o.run(InitOptions{Store: StoreCluster}); !strings.Contains(api.Hint(err), "permission to create configmap") {
		t.Errorf("%v, hint %q", err, api.Hint(err))
	}
	before := o.file()
	cluster.ReactionChain = chain
	result := o.mustRun(InitOptions{Store: StoreCluster})
	if result.Created || !result.Changed || !result.InCluster || !bytes.Equal(before, o.file()) {
		t.Errorf("resumed: %+v", result)
	}
}

// Without the right to read Secrets of kube-system, --store=local still works.
func TestInitWithoutSecrets(t *testing.T) {
	cluster := newCluster("uid-1")
	refuse(cluster, "get", "secrets", forbidden("secrets"))
	o := newOperator(t, cluster)
	o.refused(InitOptions{Store: StoreCluster}, nil, "permission to get secret")
	o.mustRun(InitOptions{})
	o.mustRun(InitOptions{Force: true})
}
