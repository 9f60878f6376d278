package authority

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func newTestAuthority(t *testing.T, trustDomain string) *ca.Authority {
	t.Helper()
	return must.Get(ca.New(ca.Options{TrustDomain: trustDomain}))(t)
}

func mustCreate(t *testing.T, dir string) *ca.Authority {
	t.Helper()
	a := newTestAuthority(t, ca.DefaultTrustDomain)
	must.Do(t, CreateDir(dir, a))
	return a
}

// supersede writes a to dir in place of what is there, and returns the path of its
// backup.
func supersede(dir string, a *ca.Authority) (backup string, err error) {
	s := &dirStore{dir: dir}
	err = s.supersede(a)
	return s.backup, err
}

// checkFile checks that a file holds an authority.
func checkFile(t *testing.T, path string, want *ca.Authority) {
	t.Helper()
	text := must.Get(os.ReadFile(path))(t)
	expect.Equal(t, path, want, must.Get(ca.Decode(text))(t))
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries := must.Get(os.ReadDir(dir))(t)
	var out []string
	for _, entry := range entries {
		out = append(out, entry.Name())
	}
	return out
}

// operator is somebody's machine, working on a cluster.
type operator struct {
	t       *testing.T
	cluster *fakecluster.Cluster
	dir     string
	// first is the authority that the cluster begins with, if it has one.
	first *ca.Authority
	step  func(string) error
	keys  *keys.Ring
}

func newOperator(t *testing.T, cluster *fakecluster.Cluster) *operator {
	return &operator{t: t, cluster: cluster, dir: filepath.Join(t.TempDir(), "authority")}
}

func (o *operator) location() Location {
	return Location{Client: o.cluster, Dir: o.dir, Keys: o.keys, Step: o.step}
}

// newCluster returns a cluster with nothing in it but its own namespace.
func newCluster(t *testing.T, uid types.UID) *fakecluster.Cluster {
	return fakecluster.New(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace, UID: uid}})
}

// refuse makes the cluster answer a verb on a resource with err.
func refuse(cluster *fakecluster.Cluster, verb, resource string, err error) {
	cluster.PrependReactor(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, err })
}

// writes counts what a client has asked a cluster to change.
func writes(cluster *fakecluster.Cluster) int {
	n := 0
	for _, action := range cluster.Actions() {
		if v := action.GetVerb(); v != "get" && v != "list" && v != "watch" {
			n++
		}
	}
	return n
}

func conflict(resource string) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: resource}, "x", errors.New("version 8"))
}
