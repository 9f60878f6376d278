//go:build e2e

package e2e

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/test/wire"
)

// apiServerDown is how long the API server is down in the tests of that.
const apiServerDown = time.Minute

const apiServer = "control-plane/kube-apiserver"

// cluster runs the cluster command, which must succeed.
func cluster(ctx context.Context, t *testing.T, args ...string) {
	t.Helper()
	if out := runCommand(ctx, t, "", os.Getenv(wire.ClusterVariable), args...); out.code != 0 {
		t.Fatalf("cluster %v: exit %d\n%s%s", args, out.code, out.stdout, out.stderr)
	}
}

// withoutAPIServer runs a function while the cluster's API server is down, and
// for that long at least.
func withoutAPIServer(t *testing.T, d time.Duration, during func()) {
	t.Helper()
	cluster(t.Context(), t, "stop", apiServer)
	var once sync.Once
	start := func() { once.Do(func() { cluster(context.Background(), t, "start", apiServer) }) }
	t.Cleanup(start) // also after a failure: other tests need it
	end := time.NewTimer(d)
	defer end.Stop()
	if out := runCommand(t.Context(), t, "", "kubectl", "get", "--raw", "/readyz", "--request-timeout=5s"); out.code == 0 {
		t.Error("the API server answers")
	}
	during()
	<-end.C
	start()
	awaitKubectl(t, "the API server is back", "get", "--raw", "/readyz")
}
