//go:build linux

package supervisor

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestListenersWakeNobody: a worker accepts the connections, and the supervisor, which keeps the listeners, sleeps.
func TestListenersWakeNobody(t *testing.T) {
	f := must.Get(listen(t.Context(), "127.0.0.1:0"))(t)
	defer f.Close()
	if err := f.SetDeadline(time.Time{}); !errors.Is(err, os.ErrNoDeadline) {
		t.Errorf("Go's runtime watches the listener: %v", err)
	}
	flags := must.Get(unix.FcntlInt(f.Fd(), unix.F_GETFL, 0))(t)
	if flags&unix.O_NONBLOCK == 0 {
		t.Error("the listener blocks who accepts")
	}
	if on := must.Get(unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN))(t); on != 1 {
		t.Error("the file is not a listener")
	}
}
