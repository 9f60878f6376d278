//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// ways returns which subresources of a pod the requests in the log of -v=6 have opened a stream to.
func ways(log string) (list []string) {
	for line := range strings.Lines(log) {
		_, rest, found := strings.Cut(line, "/pods/")
		if !found || !strings.Contains(line, `status="101 `) {
			continue
		}
		_, rest, _ = strings.Cut(rest, "/")
		list = append(list, strings.FieldsFunc(rest, func(r rune) bool { return r == '?' || r == '"' })[0])
	}
	return list
}

// TestStatusByForwardedPort: the status of a strict pod comes through a forwarded port, and a user who may
// not forward ports gets the same by a command. The pod itself cannot read it.
func TestStatusByForwardedPort(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	p := startPods(t, ns, podSpec("a", node1))[0]
	enable(t, []string{"--mode=strict"}, p)
	asked := func(want string, flags ...string) {
		t.Helper()
		eventually(t, "the status comes by "+want, func() error {
			out := tryGateway(t, append([]string{"-n", ns, "status", p.String(), "--no-headers", "-v=6"}, flags...)...)
			if got := strings.Join(ways(out.stderr), " "); out.code != 0 || got != want {
				return fmt.Errorf("exit %d, by %q: %s", out.code, got, out.stderr)
			}
			if !strings.Contains(out.stdout, string(api.Ready)) || !strings.Contains(out.stdout, string(api.Strict)) {
				return errors.New(out.stdout)
			}
			return nil
		})
	}
	asked("portforward")

	user := ns + "@example.org"
	kubectl(t, "-n", ns, "create", "role", "commands", "--verb=get,list,create", "--resource=pods,pods/exec")
	kubectl(t, "-n", ns, "create", "rolebinding", "commands", "--role=commands", "--user="+user)
	asked("exec", "--as="+user)
	kubectl(t, "-n", ns, "create", "role", "status", "--verb=get,list,create", "--resource=pods,pods/portforward")
	kubectl(t, "-n", ns, "create", "rolebinding", "status", "--role=status", "--user=only-"+user)
	asked("portforward", "--as=only-"+user)

	address := fmt.Sprintf("127.0.0.1:%d", api.StatusPortOf(1))
	// A reader that begins with anything but a handshake would get an alert.
	out := runCommand(t.Context(), t, "", "kubectl", "-n", ns, "exec", "a", "-c", "app", "--", "/app", "talk", address, "hello")
	if got := parse[appreport.Result](t, out.stdout); got.Received != "" {
		t.Errorf("the pod talks with its gateway's port: %q", got.Received)
	}
	asked("portforward")
}
