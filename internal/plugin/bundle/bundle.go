// Package bundle writes what somebody needs who is to help with gateways into one archive: what the
// plugin, the API server and the gateways say, and the gateways' logs. It never reads Secrets, keys or
// kubeconfigs, nor what applications of the pods say, and leaves out what often holds secrets: the
// environment and the commands of containers, and annotations.
//
//	bundle.go   what is asked for, and in which order it is written
//	facts.go    pods, nodes and events without what does not belong there
//	archive.go  the archive
//	mask.go     pseudonyms for addresses
package bundle

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/check"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
)

// DefaultLogBytes is how much of each log is kept.
const DefaultLogBytes = 4 << 20

// Options say what goes into an archive.
type Options struct {
	// MaskAddresses replaces addresses and the names of nodes by pseudonyms.
	MaskAddresses bool
	// LogBytes bounds each log; the newest lines are kept.
	LogBytes int64
	// Parallel bounds how many pods are asked at a time, and how many are in memory.
	Parallel int
	// Timeout bounds how long one gateway, or the API server, may take for one answer.
	Timeout time.Duration
}

// Collector collects what goes into an archive.
type Collector struct {
	Kube     kubernetes.Interface
	Gateways *remote.Client
	Options  Options
	// Versions are those of plugin and server, as 'version' prints them. Its error is noted.
	Versions func(context.Context) (any, error)
	// Check runs the checks.
	Check func(context.Context) (*check.Report, error)
	// Exposition writes metrics in Prometheus' text format.
	Exposition func(*api.Metrics) string
	// Hosts are further names that are masked, such as that of the API server.
	Hosts []string
	// Explain is as in status.Collector.
	Explain func(error) (text, hint string)
	Now     func() time.Time
	// Progress receives a line for each step.
	Progress func(string)
}

// Summary is what has become of an archive.
type Summary struct {
	Pods    int       `json:"pods"`
	Missing []Missing `json:"missing"`
}

// Write writes the archive about pods to w. What cannot be found out is noted in the archive and in
// the summary. The error is that of w, or of ctx.
func (c *Collector) Write(ctx context.Context, w io.Writer, pods []corev1.Pod) (*Summary, error) {
	var m *mask
	if c.Options.MaskAddresses {
		m = newMask()
		m.name("host", c.Hosts...)
	}
	a := newArchive(w, c.Now().Truncate(time.Second), m)
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	nodes := sets.New(lists.Map(pods, func(pod corev1.Pod) string { return pod.Spec.NodeName })...)
	nodeNames := sets.List(nodes.Delete(""))
	m.name("node", nodeNames...)
	add := func(files ...file) error {
		// What was interrupted is not worth writing.
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("collecting: %w", err)
		}
		for _, f := range files {
			if err := a.add(f); err != nil {
				return err
			}
		}
		return nil
	}
	steps := []struct {
		what string
		make func() []file
	}{
		{"versions", func() []file { return []file{within(ctx, c, "versions.json", c.Versions)} }},
		{"checks", func() []file {
			report, err := c.Check(ctx)
			return []file{asJSON("check.json", report, err)}
		}},
		{"nodes", func() []file {
			return parallel.Each(c.Options.Parallel, nodeNames, func(name *string) file { return c.node(ctx, *name) }, nil)
		}},
		{"status", func() []file {
			list, err := (&status.Collector{Gateways: c.Gateways, Timeout: c.Options.Timeout, Explain: c.Explain, Now: c.Now, Client: c.Kube}).Collect(ctx, pods)
			return []file{asJSON("status.json", list, err)}
		}},
		{"edges", func() []file {
			list, err := c.edges(ctx, pods)
			return []file{asJSON("edges.json", list, err)}
		}},
	}
	for _, step := range steps {
		c.Progress("collecting " + step.what)
		if err := add(step.make()...); err != nil {
			return nil, err
		}
	}
	for done := 0; done < len(pods); {
		some := pods[done:min(len(pods), done+max(1, c.Options.Parallel))]
		c.Progress(fmt.Sprintf("collecting pods (%d of %d)", done, len(pods)))
		for _, files := range parallel.Each(len(some), some, func(pod *corev1.Pod) []file { return c.pod(ctx, pod) }, nil) {
			if err := add(files...); err != nil {
				return nil, err
			}
		}
		done += len(some)
	}
	summary := &Summary{Pods: len(pods), Missing: append([]Missing{}, a.missing...)}
	if err := add(asJSON("summary.json", summary, nil), file{name: "README", text: []byte(c.readme())}); err != nil {
		return nil, err
	}
	return summary, a.close()
}

func (c *Collector) readme() string {
	masked := "Addresses and names of nodes are as they are."
	if c.Options.MaskAddresses {
		masked = "Addresses are replaced by ipv4-N and ipv6-N, names of nodes and servers by node-N and host-N, each the same one everywhere. Loopback is as it is."
	}
	return strings.Join([]string{
		"What 'kubectl gateway support-bundle' collected, for who is to help with gateways.",
		"",
		"summary.json   what could not be collected; NAME.error says why NAME is missing",
		"versions.json  plugin and server; status.json has those of gateways",
		"check.json     as 'kubectl gateway check -o json --image-test=false'",
		"status.json    as 'kubectl gateway status -o json', with cgroups, programs and what a kernel lacks",
		"edges.json     as 'kubectl gateway status --edges -o json'",
		"nodes/         what the API server knows of the pods' nodes",
		"pods/          of each pod: the pod without environments, commands and annotations, its events,",
		"               the gateway's metrics, and the newest lines of the logs of its gateways",
		"",
		"There are no Secrets, keys and kubeconfigs in it, and nothing that applications log.",
		masked,
		"",
	}, "\n")
}

// within asks for a value in the time for one answer.
func within[T any](ctx context.Context, c *Collector, name string, ask func(context.Context) (T, error)) file {
	value, err := remote.InTime(ctx, c.Options.Timeout, "", ask)
	return asJSON(name, value, err)
}

func (c *Collector) edges(ctx context.Context, pods []corev1.Pod) (*edges.List, error) {
	collector := edges.Collector{Gateways: c.Gateways, Timeout: c.Options.Timeout, Now: c.Now}
	views, err := collector.Collect(ctx, pods)
	if err != nil {
		return nil, err
	}
	names, _, err := edges.ReadNames(ctx, c.Kube, pods)
	if err != nil {
		return nil, err
	}
	return edges.Join(views, names), nil
}

// pod returns the files about one pod.
func (c *Collector) pod(ctx context.Context, pod *corev1.Pod) []file {
	at := path.Join("pods", pod.Namespace, pod.Name)
	files := []file{
		asJSON(path.Join(at, "pod.json"), podFacts(pod), nil),
		within(ctx, c, path.Join(at, "events.json"), func(ctx context.Context) ([]eventFacts, error) { return c.events(ctx, pod) }),
	}
	if gateway, ok := installed.Current(pod); ok && gateway.Phase == installed.Running {
		files = append(files, c.metrics(ctx, pod, gateway.Name, path.Join(at, "metrics.prom")))
	}
	for _, gateway := range installed.Gateways(pod) {
		if gateway.Phase == installed.Waiting {
			continue
		}
		name := path.Join(at, "logs", gateway.Name+".log")
		text, err := c.log(ctx, pod, gateway.Name, false)
		files = append(files, file{name: name, text: text, err: err})
		if restarted(pod, gateway.Name) {
			text, err := c.log(ctx, pod, gateway.Name, true)
			files = append(files, file{name: path.Join(at, "logs", gateway.Name+".previous.log"), text: text, err: err})
		}
	}
	return files
}

func (c *Collector) metrics(ctx context.Context, pod *corev1.Pod, container, name string) file {
	metrics, err := remote.InTime(ctx, c.Options.Timeout, "", func(ctx context.Context) (*api.Metrics, error) {
		return c.Gateways.Gateway(pod, container).Metrics(ctx)
	})
	if err != nil {
		return file{name: name, err: err}
	}
	return file{name: name, text: []byte(c.Exposition(metrics))}
}

// restarted reports whether a container has run before, as after a restart of its node.
func restarted(pod *corev1.Pod, container string) bool {
	return slices.ContainsFunc(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses), func(s corev1.ContainerStatus) bool {
		return s.Name == container && (s.RestartCount > 0 || s.LastTerminationState.Terminated != nil)
	})
}

// log returns the newest lines of a container's log, whole ones.
func (c *Collector) log(ctx context.Context, pod *corev1.Pod, container string, previous bool) ([]byte, error) {
	// The server counts lines, or bytes from the start.
	const shortLine = 100
	options := &corev1.PodLogOptions{Container: container, Previous: previous, Timestamps: true, TailLines: new(c.Options.LogBytes / shortLine)}
	text, err := remote.InTime(ctx, c.Options.Timeout, "", func(ctx context.Context) ([]byte, error) {
		stream, err := c.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).Stream(ctx)
		if err != nil {
			return nil, err
		}
		defer stream.Close()
		return newest(stream, int(c.Options.LogBytes))
	})
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	return text, nil
}

// newest returns the last whole lines of r in at most limit bytes.
func newest(r io.Reader, limit int) ([]byte, error) {
	var kept []byte
	cut := false
	piece := make([]byte, 32<<10)
	for {
		n, err := r.Read(piece)
		kept = append(kept, piece[:n]...)
		if len(kept) > 2*limit {
			cut = true
			kept = append(kept[:0], kept[len(kept)-limit:]...)
		}
		switch {
		case err == io.EOF:
			if len(kept) > limit {
				cut = true
				kept = kept[len(kept)-limit:]
			}
			if cut {
				kept = kept[bytes.IndexByte(kept, '\n')+1:]
			}
			return kept, nil
		case err != nil:
			return nil, err
		}
	}
}
