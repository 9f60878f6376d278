//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait for the cluster. It is no expectation: each wait
// ends with its condition.
const patience = 2 * time.Minute

// output is how a command ended.
type output struct {
	stdout, stderr string
	code           int
}

// runCommand runs a command to its end and returns what it printed.
func runCommand(ctx context.Context, t *testing.T, stdin string, name string, args ...string) output {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// kubectl runs kubectl, which must succeed, and returns its standard output.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out := runCommand(t.Context(), t, "", "kubectl", args...)
	if out.code != 0 {
		t.Fatalf("kubectl %s: exit %d\n%s%s", strings.Join(args, " "), out.code, out.stdout, out.stderr)
	}
	return out.stdout
}

// gateway runs "kubectl gateway", which must succeed.
func gateway(t *testing.T, args ...string) output {
	t.Helper()
	out := tryGateway(t, args...)
	if out.code != 0 {
		t.Fatalf("kubectl gateway %s: exit %d\n%s%s", strings.Join(args, " "), out.code, out.stdout, out.stderr)
	}
	return out
}

// tryGateway runs "kubectl gateway", which may fail.
func tryGateway(t *testing.T, args ...string) output {
	t.Helper()
	return runCommand(t.Context(), t, "", "kubectl", append([]string{"gateway"}, args...)...)
}

// get reads one object, or a list, into to.
func get(t *testing.T, to any, args ...string) {
	t.Helper()
	text := kubectl(t, append(append([]string{"get"}, args...), "-o", "json")...)
	if err := json.Unmarshal([]byte(text), to); err != nil {
		t.Fatalf("kubectl get %v: %v", args, err)
	}
}

// eventually waits until condition returns nil.
func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so after %v: %v", what, patience, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// namespace creates a namespace that is deleted after the test.
func namespace(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("e2e-%s-%d", strings.ToLower(strings.Split(t.Name(), "/")[0][4:]), time.Now().UnixNano()%1e6)
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() {
		// The test's own context is done by now.
		runCommand(context.Background(), t, "", "kubectl", "delete", "namespace", name, "--wait=false")
	})
	eventually(t, "the service account of "+name, func() error {
		out := runCommand(t.Context(), t, "", "kubectl", "-n", name, "get", "serviceaccount", "default")
		if out.code != 0 {
			return errors.New(out.stderr)
		}
		return nil
	})
	return name
}

// errNotSeen is the error of a condition that is only true or false.
var errNotSeen = errors.New("it is not so")
