//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// clusterImage is the image of this program on the cluster's nodes, and clusterProgram where it is in it.
const (
	clusterImage   = "localhost/bench:latest"
	clusterProgram = "/bench"
)

// Names of what a side has in its namespace.
const (
	podClient = "client"
	podServer = "server"
)

// clusterSides are those that a cluster has: every connection goes through a ClusterIP.
func clusterSides() []string { return []string{direct, gateways, inband} }

// clusterGroups are those that can be measured on a cluster.
func clusterGroups() []string {
	return slices.DeleteFunc(allGroups(), func(group string) bool { return group == groupStart })
}

// cluster is two pods on two nodes of a cluster whose nodes are on this machine, with a Service before the server.
type cluster struct {
	plugin, namespace string
	gateways          bool
	// pods are those of client and server.
	pods [2]clusterPod
}

// clusterPod is where a pod and its gateway are on this machine.
type clusterPod struct{ cgroup, gateway string }

// startOnCluster starts a side on the cluster that kubectl finds. plugin is the plugin's executable.
func startOnCluster(ctx context.Context, s *side, plugin string) (err error) {
	c := &cluster{plugin: plugin, namespace: fmt.Sprintf("bench-%s-%d", s.name, os.Getpid()), gateways: s.name != direct}
	s.between = c
	if err := c.makePods(ctx); err != nil {
		return err
	}
	if err := c.findPods(ctx); err != nil {
		return err
	}
	address, err := c.kubectl(ctx, "get", "service", podServer, "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	s.target = string(address) + ":" + strconv.Itoa(portServer)
	if s.server, err = c.startAgent(podServer, "server", ":"+strconv.Itoa(portServer)); err != nil {
		return err
	}
	if s.client, err = c.startAgent(podClient, "client"); err != nil {
		return err
	}
	if err := s.awaitService(ctx); err != nil {
		return err
	}
	if !c.gateways {
		return nil
	}
	if err := c.enable(ctx, s.name); err != nil {
		return err
	}
	return c.findPods(ctx)
}

// awaitService waits until the Service leads to the server.
func (s *side) awaitService(ctx context.Context) error {
	deadline := time.Now().Add(slack)
	for {
		_, err := s.client.ask(ctx, order{Op: opConnect, Target: s.target, Workers: 1, Duration: time.Nanosecond})
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// makePods makes the namespace, and waits until its pods run, each on a node of its own.
func (c *cluster) makePods(ctx context.Context) error {
	pod := func(name string) string {
		return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s, bench: pod}}
spec:
  terminationGracePeriodSeconds: 0
  topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {bench: pod}}}
  containers:
  - {name: app, image: "%s", imagePullPolicy: Never, command: ["%s", "%s", "wait"]}
`, name, c.namespace, name, clusterImage, clusterProgram, argHelper)
	}
	manifest := fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: %s}
---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec:
  selector: {app: %s}
  ports: [{port: %d}]
`, c.namespace, podServer, c.namespace, podServer, portServer) + pod(podClient) + pod(podServer)
	if _, err := c.run(ctx, []byte(manifest), "kubectl", "apply", "-f", "-"); err != nil {
		return err
	}
	_, err := c.kubectl(ctx, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=2m")
	return err
}

// enable gives both pods a gateway, by the authority of the cluster.
func (c *cluster) enable(ctx context.Context, name string) error {
	if _, err := c.run(ctx, nil, c.plugin, "init-ca"); err != nil {
		return err
	}
	wire := api.WireAuto
	if name == inband {
		wire = api.WireInband
	}
	_, err := c.run(ctx, nil, c.plugin, "enable", "--all", "--yes", "-n", c.namespace, "--image-pull-policy=Never", "--wire", string(wire))
	return err
}

// findPods finds the cgroups of the pods and of gateways that are there, which have the UIDs of pods and the IDs of containers in their
// names. The pods get the congestion control of the benchmark's other pods: they have inherited the machine's.
func (c *cluster) findPods(ctx context.Context) error {
	for i, name := range []string{podClient, podServer} {
		text, err := c.kubectl(ctx, "get", "pod", name, "-o", "json")
		if err != nil {
			return err
		}
		var pod struct {
			Metadata struct{ UID string }
			Status   struct {
				EphemeralContainerStatuses []struct{ ContainerID string }
			}
		}
		if err := json.Unmarshal(text, &pod); err != nil {
			return err
		}
		uid := pod.Metadata.UID
		if c.pods[i].cgroup, err = findCgroup("/sys/fs/cgroup", uid, strings.ReplaceAll(uid, "-", "_")); err != nil {
			return err
		}
		for _, gateway := range pod.Status.EphemeralContainerStatuses {
			_, id, _ := strings.Cut(gateway.ContainerID, "://")
			if c.pods[i].gateway, err = findCgroup(c.pods[i].cgroup, id); err != nil {
				return err
			}
		}
		if err := c.pods[i].pinCongestionControl(); err != nil {
			return err
		}
	}
	return nil
}

// pinCongestionControl enters the pod's network namespace by one of its processes.
func (p *clusterPod) pinCongestionControl() error {
	lists, err := filepath.Glob(filepath.Join(p.cgroup, "*", "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(string(text), "\n")
		if pid, err := strconv.Atoi(first); err == nil {
			return netlab.PinCongestionControl(pid)
		}
	}
	return fmt.Errorf("there is no process in %s", p.cgroup)
}

// findCgroup returns the cgroup (of version 2) below root whose name has one of ids in it.
func findCgroup(root string, ids ...string) (found string, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has just ended
		}
		if err != nil || !entry.IsDir() || path == root {
			return err
		}
		for _, id := range ids {
			_, missing := os.Stat(filepath.Join(path, "cgroup.controllers"))
			if strings.Contains(entry.Name(), id) && missing == nil {
				found = path
				return fs.SkipAll
			}
		}
		return nil
	})
	if err == nil && found == "" {
		err = fmt.Errorf("there is no cgroup of %s: the nodes have to be on this machine", ids[0])
	}
	return found, err
}

// kubectl returns what kubectl prints about the namespace.
func (c *cluster) kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return c.run(ctx, nil, "kubectl", append(args, "-n", c.namespace)...)
}

// run returns what a program prints that reads input.
func (c *cluster) run(ctx context.Context, input []byte, program string, args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// startAgent starts a helper in the container of the application in a pod.
func (c *cluster) startAgent(pod, helper string, args ...string) (*agent, error) {
	return newAgent(func(in, out *os.File) (process, error) {
		e := &execution{Cmd: exec.Command("kubectl", append([]string{"exec", "-i", pod, "-c", "app", "-n", c.namespace, "--",
			clusterProgram, argHelper, helper}, args...)...)}
		e.Stdin, e.Stdout, e.Stderr = in, out, &e.output
		return e, e.Start()
	})
}

// execution is a command in a container, by way of kubectl.
type execution struct {
	*exec.Cmd
	output logEnd
}

// Output is part of process.
func (e *execution) Output() string { return e.output.String() }

// Stop is part of process. The command has ended with its standard input, which kubectl passes on.
func (e *execution) Stop() {
	kill := time.AfterFunc(endTimeout, func() { e.Process.Kill() })
	defer kill.Stop()
	_ = e.Wait()
}

func (c *cluster) encrypts() bool { return c.gateways }

func (c *cluster) traffic(ctx context.Context) (outbound, inbound api.Direction, err error) {
	text, err := c.run(ctx, nil, c.plugin, "status", "-n", c.namespace, "-o", "json")
	if err != nil {
		return outbound, inbound, err
	}
	// As the plugin's, which would bring all of client-go with it.
	var list struct {
		Items []struct {
			Pod    string
			Status *api.Status
		}
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return outbound, inbound, err
	}
	known := 0
	for _, item := range list.Items {
		switch {
		case item.Status == nil:
		case item.Pod == podClient:
			outbound, known = item.Status.Traffic.Outbound, known+1
		case item.Pod == podServer:
			inbound, known = item.Status.Traffic.Inbound, known+1
		}
	}
	if known != len(c.pods) {
		return outbound, inbound, fmt.Errorf("not both gateways say what they have carried: %s", text)
	}
	return outbound, inbound, nil
}

func (c *cluster) costs() (sum costs, err error) {
	for _, pod := range c.pods {
		used, err := cpuTime(pod.cgroup)
		if err != nil {
			return sum, err
		}
		sum.all += used
		if pod.gateway == "" {
			continue
		}
		if used, err = cpuTime(pod.gateway); err != nil {
			return sum, err
		}
		sum.proxies += used
	}
	return sum, nil
}

func (c *cluster) memory() (out, in memory, err error) {
	return memoryOfBoth(c.pods[0].gateway, c.pods[1].gateway)
}

// lastWords is part of between.
func (c *cluster) lastWords() (all []words) {
	ctx, cancel := context.WithTimeout(context.Background(), slack)
	defer cancel()
	for _, pod := range []string{podClient, podServer} {
		// The error says as much.
		text, err := c.kubectl(ctx, "logs", pod, "--all-containers", "--tail=20")
		if err != nil {
			text = []byte(err.Error())
		}
		all = append(all, words{"pod " + pod, string(text)})
	}
	return all
}

func (c *cluster) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*slack)
	defer cancel()
	_, err := c.run(ctx, nil, "kubectl", "delete", "namespace", c.namespace, "--ignore-not-found")
	return err
}
