package verify

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// Bounds of what is read of a log.
const (
	maxLines   = 10000
	maxLogLine = 64 << 10
	maxLog     = 64 << 20
)

// readLog reads the log of a gateway from the API server.
func readLog(ctx context.Context, client kubernetes.Interface, g remote.Ref, since time.Duration) ([]api.Connection, error) {
	stream, err := client.CoreV1().Pods(g.Namespace).GetLogs(g.Pod, &corev1.PodLogOptions{
		Container: g.Container, SinceSeconds: new(int64(since.Seconds()) + 2), TailLines: new(int64(maxLines)),
	}).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the log of pod %s/%s: %w", g.Namespace, g.Pod, err)
	}
	defer stream.Close()
	return parseLog(io.LimitReader(stream, maxLog)), nil
}

// parseLog returns the connections in a log. It skips other lines.
func parseLog(r io.Reader) []api.Connection {
	var found []api.Connection
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLogLine)
	for lines.Scan() {
		var c api.Connection
		if err := json.Unmarshal(lines.Bytes(), &c); err == nil && c.Message == api.ConnectionMessage {
			found = append(found, c)
		}
	}
	return found
}
