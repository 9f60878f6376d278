//go:build linux

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
)

const (
	// patience bounds each of the measurements.
	patience = 10 * time.Minute
	// podsPerOwner is how many pods a controller has.
	podsPerOwner = 20
	// ticks is how many of a process's clock ticks a second has (USER_HZ).
	ticks = 100
)

// meter measures the plugin.
type meter struct {
	plan     plan
	server   *server
	nodes    *kubelets
	dir      string
	out      io.Writer
	progress io.Writer
}

// cost is what something took.
type cost struct {
	elapsed time.Duration
	// plugin, apiServer and etcd are user and system time.
	plugin, apiServer, etcd time.Duration
	// requests to the API server by what they are, without those of kubelets, and commands by name.
	requests, commands map[string]int
}

// command prepares a run of the plugin, whose output goes to a file.
func (m *meter) command(ctx context.Context, args ...string) (*exec.Cmd, *bytes.Buffer) {
	dir := "--authority-dir"
	if args[0] == "init-ca" {
		dir = "--dir"
	}
	if args[0] != "status" {
		args = append(args, dir, filepath.Join(m.dir, "authority"))
	}
	if n := m.plan.Parallel; n > 0 && args[0] != "init-ca" && args[0] != "status" {
		args = append(args, "--parallel", strconv.Itoa(n))
	}
	cmd, output := exec.CommandContext(ctx, m.plan.Plugin, args...), new(bytes.Buffer)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.server.kubeconfig, "NO_COLOR=1")
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd, output
}

// plugin runs the plugin to its end.
func (m *meter) plugin(ctx context.Context, args ...string) error {
	if args[0] == "init-ca" {
		if err := m.server.writeKubeconfig("default"); err != nil {
			return err
		}
	}
	cmd, output := m.command(ctx, args...)
	if err := cmd.Run(); err != nil {
		text := output.String()
		return fmt.Errorf("%s: %w\n%s", args[0], err, text[max(0, len(text)-4000):])
	}
	return nil
}

// enableBySecret and enableByCSR measure enable with its two deliveries.
func (m *meter) enableBySecret(ctx context.Context) error { return m.enable(ctx, "secret") }
func (m *meter) enableByCSR(ctx context.Context) error    { return m.enable(ctx, "csr") }

func (m *meter) enable(ctx context.Context, delivery string) error {
	namespace := "by-" + delivery
	if err := m.fill(ctx, namespace, ""); err != nil {
		return err
	}
	c, err := m.during(ctx, nil, func() error {
		return m.plugin(ctx, "enable", "--all", "--yes", "-n", namespace, "--image", "gateway:crowd", "--delivery", delivery)
	})
	if err != nil {
		return err
	}
	m.print(fmt.Sprintf("enable --delivery=%s", delivery), c)
	if err := m.verify(ctx, namespace); err != nil {
		return err
	}
	return m.empty(ctx, namespace)
}

// watch measures watch: the first gateways, and a node that joins.
func (m *meter) watch(ctx context.Context) error {
	const namespace = "by-watch"
	if err := m.fill(ctx, namespace, "true"); err != nil {
		return err
	}
	w := m.startable(ctx, namespace)
	until := func(is func(*api.Status) bool) error {
		return w.until(ctx, patience, func() int { return m.nodes.gateways.count(is) })
	}
	c, err := m.during(ctx, w.cmd, func() error {
		if err := w.start(); err != nil {
			return err
		}
		return until(func(status *api.Status) bool { return status.State == api.Ready })
	})
	if err != nil {
		return err
	}
	m.print("watch", c)
	// What follows the last certificate is not part of what follows.
	if err := m.settle(ctx); err != nil {
		return err
	}
	if err := m.verify(ctx, namespace); err != nil {
		return err
	}
	joined := m.plan.Nodes
	ranges := netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", joined))
	c, err = m.during(ctx, w.cmd, func() error {
		if err := m.nodes.join(ctx, joined); err != nil {
			return err
		}
		return until(func(status *api.Status) bool {
			return slices.ContainsFunc(status.Capture.Capture, func(p netip.Prefix) bool { return p.Overlaps(ranges) })
		})
	})
	if err != nil {
		return err
	}
	m.print("watch, a node joins", c)
	if err := w.stop(); err != nil {
		return err
	}
	c, err = m.during(ctx, nil, func() error { return m.plugin(ctx, "status", "-n", namespace, "-o", "json") })
	if err != nil {
		return err
	}
	m.print("status", c)
	return nil
}

// watching is a watch, which runs from start to stop.
type watching struct {
	pods   int
	cmd    *exec.Cmd
	output *bytes.Buffer
	ended  chan error
}

func (m *meter) startable(ctx context.Context, namespace string, flags ...string) *watching {
	w := &watching{pods: m.plan.Pods, ended: make(chan error, 1)}
	w.cmd, w.output = m.command(ctx, append([]string{"watch", "-n", namespace, "--image", "gateway:crowd", "-o", "json"}, flags...)...)
	return w
}

func (w *watching) start() error {
	if err := w.cmd.Start(); err != nil {
		return err
	}
	go func() { w.ended <- w.cmd.Wait() }()
	return nil
}

// until waits until count is as many as there are pods.
func (w *watching) until(ctx context.Context, patience time.Duration, count func() int) error {
	deadline := time.Now().Add(patience)
	for count() < w.pods {
		select {
		case err := <-w.ended:
			w.ended <- err
			return fmt.Errorf("watch has ended: %w\n%s", err, w.output)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d gateways are as they should be\n%s", count(), w.pods, w.output)
		}
	}
	return nil
}

func (w *watching) stop() error {
	_ = w.cmd.Process.Signal(os.Interrupt)
	if err := <-w.ended; err != nil {
		return fmt.Errorf("watch: %w\n%s", err, w.output)
	}
	return nil
}

// fill makes pods in a new namespace, and waits until they run.
func (m *meter) fill(ctx context.Context, namespace, annotation string) error {
	core := m.server.admin.CoreV1()
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if annotation != "" {
		object.Annotations = map[string]string{watch.Annotation: annotation}
	}
	if _, err := core.Namespaces().Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := core.ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	numbers := make([]int, m.plan.Pods)
	for i := range numbers {
		numbers[i] = i
	}
	failed := errors.Join(parallel.Each(parallel.Default, numbers, func(i *int) error {
		owner := fmt.Sprintf("web-%d", *i/podsPerOwner)
		_, err := core.Pods(namespace).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("%s-%d", owner, *i), Labels: map[string]string{"app": owner, "pod-template-hash": owner},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: new(true)}},
			},
			Spec: corev1.PodSpec{NodeName: nodeName(*i % m.plan.Nodes), Containers: []corev1.Container{{Name: "app", Image: "app"}}},
		}, metav1.CreateOptions{})
		return err
	}, nil)...)
	if failed != nil {
		return failed
	}
	deadline := time.Now().Add(patience)
	for {
		running, err := core.Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
		if err != nil || len(running.Items) == m.plan.Pods {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d pods run", len(running.Items), m.plan.Pods)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// empty removes the pods of a namespace.
func (m *meter) empty(ctx context.Context, namespace string) error {
	return m.server.admin.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, metav1.ListOptions{})
}

// verify checks that every pod has one gateway, which is ready, and that nothing else is left.
func (m *meter) verify(ctx context.Context, namespace string) error {
	core := m.server.admin.CoreV1()
	pods, err := core.Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	wrong := 0
	for _, pod := range pods.Items {
		if len(pod.Spec.EphemeralContainers) != 1 {
			wrong++
		}
	}
	secrets, err := core.Secrets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	ready := m.nodes.gateways.count(func(s *api.Status) bool { return s.Pod.Namespace == namespace && s.State == api.Ready })
	if wrong > 0 || ready != m.plan.Pods || len(pods.Items) != m.plan.Pods || m.nodes.gateways.doubled() > 0 || len(secrets.Items) > 0 {
		return fmt.Errorf("%d of %d pods have not one gateway, %d gateways are ready, %d Secrets are left", wrong, len(pods.Items), ready, len(secrets.Items))
	}
	return nil
}

// during returns what do costs. running is the plugin if it is not started and ended by do.
func (m *meter) during(ctx context.Context, running *exec.Cmd, do func() error) (cost, error) {
	if err := m.settle(ctx); err != nil {
		return cost{}, err
	}
	// Requests that last are counted when they end.
	return m.between(ctx, running, do, m.settle)
}

// between returns what do and settle cost, of which do is timed.
func (m *meter) between(ctx context.Context, running *exec.Cmd, do func() error, settle func(context.Context) error) (cost, error) {
	m.nodes.gateways.told()
	before, err := m.sample(ctx, running)
	if err != nil {
		return cost{}, err
	}
	start := time.Now()
	if err := do(); err != nil {
		return cost{}, err
	}
	elapsed := time.Since(start)
	if err := settle(ctx); err != nil {
		return cost{}, err
	}
	after, err := m.sample(ctx, running)
	if err != nil {
		return cost{}, err
	}
	c := cost{elapsed: elapsed, plugin: after.plugin - before.plugin, apiServer: after.apiServer - before.apiServer, etcd: after.etcd - before.etcd,
		requests: map[string]int{}, commands: m.nodes.gateways.told()}
	for what, n := range after.requests {
		if n -= before.requests[what]; n > 0 {
			c.requests[what] = n
		}
	}
	return c, nil
}

// sample returns what was spent so far.
func (m *meter) sample(ctx context.Context, running *exec.Cmd) (c cost, err error) {
	if c.requests, err = m.requests(ctx); err != nil {
		return c, err
	}
	for unit, to := range map[string]*time.Duration{"kube-apiserver": &c.apiServer, "etcd": &c.etcd} {
		if *to, err = cpuOf(m.server.pids[unit]); err != nil {
			return c, err
		}
	}
	if running == nil {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &usage); err != nil {
			return c, err
		}
		c.plugin = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		return c, nil
	}
	if running.Process != nil {
		c.plugin, err = cpuOf(running.Process.Pid)
	}
	return c, err
}

// cpuOf returns the user and system time of a process.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The program's name, in parentheses, may have blanks.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d: %q", pid, text)
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / ticks, errors.Join(err1, err2)
}

// settle waits until the API server counts nothing new.
func (m *meter) settle(ctx context.Context) error {
	last := -1
	for {
		now, err := m.requests(ctx)
		if err != nil {
			return err
		}
		sum := 0
		for _, n := range now {
			sum += n
		}
		if sum == last {
			return nil
		}
		last = sum
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// requests returns how often the API server was asked for what, without what kubelets and the
// API server itself ask.
func (m *meter) requests(ctx context.Context) (map[string]int, error) {
	text, err := m.server.metrics(ctx)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for lines := bufio.NewScanner(text); lines.Scan(); {
		labels, ok := strings.CutPrefix(lines.Text(), "apiserver_request_total{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(labels, "} ")
		label := map[string]string{}
		for pair := range strings.SplitSeq(labels, ",") {
			name, text, _ := strings.Cut(pair, "=")
			label[name] = strings.Trim(text, `"`)
		}
		what := strings.ToLower(label["verb"]) + " " + strings.TrimSuffix(label["resource"]+"/"+label["subresource"], "/")
		switch {
		case label["resource"] == "", label["resource"] == "leases", what == "patch pods/status", what == "get secrets":
			continue
		}
		if label["dry_run"] != "" {
			what += " (dry run)"
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, err
		}
		counts[what] += int(n)
	}
	return counts, nil
}

// print prints what something cost, in all and for each pod.
func (m *meter) print(what string, c cost) {
	pods := m.plan.Pods
	each := func(d time.Duration) string {
		return fmt.Sprintf("%.2f s (%.1f ms a pod)", d.Seconds(), d.Seconds()*1000/float64(pods))
	}
	sum := 0
	for _, n := range c.requests {
		sum += n
	}
	fmt.Fprintf(m.out, "%s, %d pods: %.1f s\n", what, pods, c.elapsed.Seconds())
	fmt.Fprintf(m.out, "  CPU: plugin %s, API server %s, etcd %s\n", each(c.plugin), each(c.apiServer), each(c.etcd))
	fmt.Fprintf(m.out, "  requests: %d (%.2f a pod)\n", sum, float64(sum)/float64(pods))
	for _, list := range []map[string]int{c.requests, c.commands} {
		keys := slices.SortedFunc(maps.Keys(list), func(a, b string) int { return cmp.Or(list[b]-list[a], cmp.Compare(a, b)) })
		for _, key := range keys {
			fmt.Fprintf(m.out, "  %8d %s\n", list[key], key)
		}
	}
}
