package authority

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func (o *operator) run(options InitOptions) (*InitResult, error) {
	o.t.Helper()
	var progress strings.Builder
	options.Location = o.location()
	options.Progress = func(line string) { progress.WriteString(line + "\n") }
	result, err := Init(o.t.Context(), options)
	if strings.Contains(progress.String(), "PRIVATE KEY") {
		o.t.Error("progress shows a key")
	}
	if err != nil {
		expect.Message(o.t, "init", err)
	} else if result.Changed == (progress.Len() == 0) {
		o.t.Errorf("changed %v, but said %q", result.Changed, progress.String())
	}
	return result, err
}

// init runs Init and compares what comes of it. A nil authority in want is any, and
// a backup in want is any backup.
func (o *operator) init(options InitOptions, want InitResult) *ca.Authority {
	o.t.Helper()
	got := must.Get(o.run(options))(o.t)
	if want.Authority == nil {
		want.Authority = got.Authority
	}
	if want.Backup != "" && got.Backup != "" {
		want.Backup = got.Backup
	}
	expect.Equal(o.t, fmt.Sprintf("init %+v", options), &want, got)
	return got.Authority
}

// refused runs Init and requires that it fails with want and a hint, and that
// nothing has changed on the machine or in the cluster.
func (o *operator) refused(options InitOptions, want error, hint string) {
	o.t.Helper()
	o.unchanged(func() {
		_, err := o.run(options)
		expect.Refusal(o.t, "init", err, want, "", hint)
	})
}

// unchanged requires that do changes nothing on the machine or in the cluster.
func (o *operator) unchanged(do func()) {
	o.t.Helper()
	before, beforeWrites := o.file(), writes(o.cluster)
	do()
	if !bytes.Equal(before, o.file()) || writes(o.cluster) != beforeWrites {
		o.t.Error("something was changed")
	}
}

func (o *operator) file() []byte {
	text, err := os.ReadFile(Path(o.dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		o.t.Fatal(err)
	}
	return text
}

// checkCluster checks whether a is trusted, and how many keys the cluster holds.
func (o *operator) checkCluster(a *ca.Authority, keys int) {
	o.t.Helper()
	if b, err := fetchBundle(o.t.Context(), o.cluster); err != nil || !b.holds(a) {
		o.t.Errorf("bundle %v, %v", b, err)
	}
	secrets := must.Get(o.cluster.CoreV1().Secrets("").List(o.t.Context(), metav1.ListOptions{}))(o.t)
	maps := must.Get(o.cluster.CoreV1().ConfigMaps("").List(o.t.Context(), metav1.ListOptions{}))(o.t)
	found := 0
	for _, s := range secrets.Items {
		for _, data := range s.Data {
			found += bytes.Count(data, []byte("PRIVATE KEY-----\n")) / 2
		}
	}
	if found != keys || strings.Contains(maps.String(), "PRIVATE") {
		o.t.Errorf("%d keys in Secrets, want %d; in ConfigMaps: %t", found, keys, strings.Contains(maps.String(), "PRIVATE"))
	}
}

func TestInitOnceAndAgain(t *testing.T) {
	o := newOperator(t, newCluster(t, "uid-1"))
	first := o.init(InitOptions{TTL: 48 * time.Hour}, InitResult{File: Path(o.dir), Created: true, Changed: true})
	if d := time.Until(first.NotAfter()); d > 48*time.Hour || d < 47*time.Hour {
		t.Errorf("valid for %v", d)
	}
	o.checkCluster(first, 0)
	o.unchanged(func() {
		for _, options := range []InitOptions{{}, {TrustDomain: ca.DefaultTrustDomain}, {Store: StoreLocal, TTL: time.Hour}} {
			o.init(options, InitResult{Authority: first, File: Path(o.dir)})
		}
	})
	o.refused(InitOptions{TrustDomain: "other.local"}, ErrExists, "--force")

	// What the cluster has lost comes back.
	must.Do(t, o.cluster.CoreV1().ConfigMaps(Namespace).Delete(t.Context(), BundleName, metav1.DeleteOptions{}))
	o.init(InitOptions{}, InitResult{Authority: first, File: Path(o.dir), Changed: true})
	o.checkCluster(first, 0)
}

func TestInitSecondOperator(t *testing.T) {
	cluster := newCluster(t, "uid-1")
	first, second := newOperator(t, cluster), newOperator(t, cluster)
	made := first.init(InitOptions{}, InitResult{File: Path(first.dir), Created: true, Changed: true})
	second.refused(InitOptions{}, ErrForeign, "copy of authority.pem")
	second.refused(InitOptions{Store: StoreCluster}, ErrForeign, "--force")

	// A copy of the file is all that the second one needs.
	must.Do(t, CreateDir(second.dir, made))
	second.init(InitOptions{}, InitResult{Authority: made, File: Path(second.dir)})

	// By force, the first one's becomes the foreign one.
	replaced := second.init(InitOptions{Force: true}, InitResult{File: Path(second.dir), Backup: "any", Created: true, Changed: true})
	if replaced.Equal(made) {
		t.Error("the authority is the same as before")
	}
	first.refused(InitOptions{}, ErrForeign, "--force")
	if _, err := Load(t.Context(), first.location()); !errors.Is(err, ErrForeign) {
		t.Errorf("first loads: %v", err)
	}
}

func TestInitStoreCluster(t *testing.T) {
	cluster := newCluster(t, "uid-1")
	first, second, third := newOperator(t, cluster), newOperator(t, cluster), newOperator(t, cluster)
	made := first.init(InitOptions{}, InitResult{File: Path(first.dir), Created: true, Changed: true})
	first.init(InitOptions{Store: StoreCluster}, InitResult{Authority: made, File: Path(first.dir), InCluster: true, Changed: true})
	first.checkCluster(made, 1)
	first.init(InitOptions{Store: StoreCluster}, InitResult{Authority: made, File: Path(first.dir), InCluster: true})
	// Another machine finds it there and needs no file of its own.
	second.init(InitOptions{}, InitResult{Authority: made, InCluster: true})
	if second.file() != nil {
		t.Error("the second machine has a file")
	}
	second.refused(InitOptions{TrustDomain: "other.local"}, ErrExists, "--force")
	// A replacement must not leave a dead key in the cluster.
	first.refused(InitOptions{Force: true}, ErrExists, "--store=cluster")
	replaced := first.init(InitOptions{Force: true, Store: StoreCluster, TrustDomain: "other.local"},
		InitResult{File: Path(first.dir), Backup: "any", InCluster: true, Created: true, Changed: true})
	first.checkCluster(replaced, 1)
	stored := must.Get((&secretStore{client: cluster}).get(t.Context(), current))(t)
	expect.Equal(t, "stored", replaced, stored)
	expect.Equal(t, "trust domain", "other.local", stored.TrustDomain())
	// With a file that is not what the Secret holds, nobody can tell which is right.
	must.Do(t, CreateDir(third.dir, made))
	third.refused(InitOptions{}, ErrForeign, "--force")
}

func TestInitImport(t *testing.T) {
	o := newOperator(t, newCluster(t, "uid-1"))
	root, other := pki.Root(t), pki.Root(t)
	imported := func(p pki.Pair, trustDomain string) *ca.Authority {
		return must.Get(ca.Import(p.CertPEM(), p.KeyPEM(t), trustDomain))(t)
	}
	from := func(p pki.Pair) InitOptions { return InitOptions{CertPEM: p.CertPEM(), KeyPEM: p.KeyPEM(t)} }
	force, named := from(other), from(root)
	force.Force, named.TrustDomain = true, "prod.example.org"
	o.refused(InitOptions{CertPEM: root.CertPEM()}, nil, "--from-key")
	o.refused(InitOptions{KeyPEM: root.KeyPEM(t)}, nil, "--from-cert")
	o.refused(InitOptions{CertPEM: root.CertPEM(), KeyPEM: root.KeyPEM(t), TTL: time.Hour}, nil, "--ttl")
	o.refused(InitOptions{CertPEM: root.CertPEM(), KeyPEM: other.KeyPEM(t)}, ca.ErrMismatch, "--from-key")

	want := InitResult{Authority: imported(root, "prod.example.org"), File: Path(o.dir), Created: true, Changed: true}
	o.init(named, want)
	want.Created, want.Changed = false, false
	o.init(named, want)
	o.init(from(root), want)
	o.refused(from(other), ErrExists, "--force")
	o.init(force, InitResult{Authority: imported(other, ""), File: Path(o.dir), Backup: "any", Created: true, Changed: true})
	// The owner of the published authority can set up another machine with it.
	second := newOperator(t, o.cluster)
	second.init(from(other), InitResult{Authority: imported(other, ""), File: Path(second.dir), Created: true, Changed: true})
}

func TestInitLeavesDamagedAlone(t *testing.T) {
	o := newOperator(t, newCluster(t, "uid-1"))
	must.Do(t, os.MkdirAll(o.dir, 0o700))
	must.Do(t, os.WriteFile(Path(o.dir), []byte("half an auth"), 0o600))
	o.refused(InitOptions{}, ca.ErrDamaged, "--force")
	result := must.Get(o.run(InitOptions{Force: true}))(t)
	if kept, err := os.ReadFile(result.Backup); err != nil || string(kept) != "half an auth" {
		t.Errorf("backup %q, %v", kept, err)
	}
}

func TestInitRefusesOptions(t *testing.T) {
	o := newOperator(t, newCluster(t, "uid-1"))
	o.refused(InitOptions{Store: "elsewhere"}, nil, "local or cluster")
	o.refused(InitOptions{TrustDomain: "Not A Domain"}, nil, "cluster.local")
}

// Interrupted after the key was written, Init finishes when it is run again.
func TestInitResumes(t *testing.T) {
	o := newOperator(t, newCluster(t, "uid-1"))
	chain := o.cluster.ReactionChain
	o.cluster.Forbid("create", "configmaps")
	if _, err := o.run(InitOptions{Store: StoreCluster}); !strings.Contains(api.Hint(err), "may create configmap") {
		t.Errorf("%v, hint %q", err, api.Hint(err))
	}
	o.cluster.ReactionChain = chain
	made := must.Get(LoadDir(o.dir))(t)
	o.init(InitOptions{Store: StoreCluster}, InitResult{Authority: made, File: Path(o.dir), InCluster: true, Changed: true})
}

// Without the right to read Secrets of kube-system, --store=local still works.
func TestInitWithoutSecrets(t *testing.T) {
	o := newOperator(t, newCluster(t, "uid-1"))
	o.cluster.Forbid("get", "secrets")
	o.refused(InitOptions{Store: StoreCluster}, nil, "may get secret")
	o.init(InitOptions{}, InitResult{File: Path(o.dir), Created: true, Changed: true})
	o.init(InitOptions{Force: true}, InitResult{File: Path(o.dir), Backup: "any", Created: true, Changed: true})
}
