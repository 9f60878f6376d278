//go:build linux

package supervisor

import (
	"net"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestListenMetrics: the listener is where the address says, and an address in use is an
// error that says what to do.
func TestListenMetrics(t *testing.T) {
	if f, err := listenMetrics(t.Context(), ""); f != nil || err != nil {
		t.Errorf("without an address: %v, %v", f, err)
	}
	taken := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	addr := taken.Addr().String()
	if _, err := listenMetrics(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "metrics") || !strings.Contains(api.Hint(err), "--metrics-addr") {
		t.Errorf("an address in use: %v, hint %q", err, api.Hint(err))
	}
	taken.Close()
	f := must.Get(listenMetrics(t.Context(), addr))(t)
	defer f.Close()
	conn := must.Get(net.Dial("tcp", addr))(t)
	conn.Close()
}
