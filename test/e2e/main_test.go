//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"k8s.io/klog/v2"
)

// TestMain sets up the authority once; doing so again changes nothing.
func TestMain(m *testing.M) {
	// As the plugin does: libraries would tell of streams that have ended.
	klog.SetLogger(klog.Logger{})
	if out, err := exec.Command("kubectl", "gateway", "init-ca").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "kubectl gateway init-ca: %v\n%s", err, out)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
