//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"text/tabwriter"
	"time"
)

// status prints what runs; exit 1 when the cluster is down or incomplete.
func status(ctx context.Context, c *Cluster, io streams, args []string) error {
	if err := parse(flag.NewFlagSet("status", flag.ContinueOnError), args); err != nil {
		return err
	}
	settings, err := c.settings()
	if err != nil {
		return errDown(err)
	}
	complete := true
	table := tabwriter.NewWriter(io.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "COMPONENT\tPID\tSTATE\tLOG")
	for _, unit := range c.everything(settings) {
		pid, running := c.unitPID(unit)
		state := "running"
		if !running {
			state, complete = "not running", false
		}
		if reason, failed := c.unit(unit, "failed"); failed {
			state, complete = "failed: "+reason, false
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", unit, pid, state, c.logFile(unit))
	}
	for _, node := range settings.nodes() {
		state := "Ready"
		if err := c.nodeReady(ctx, node); err != nil {
			state, complete = err.Error(), false
		}
		fmt.Fprintf(table, "%s\t\t%s\t\n", "Node "+node.Name, state)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	if !complete {
		return withHint(errors.New("the cluster is not complete"), "see the logs; down and up start it anew")
	}
	return nil
}

// errDown replaces the error of settings for a cluster that does not exist.
func errDown(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return withHint(errors.New("the cluster is down"), "start it with up")
	}
	return err
}

// kubeconfig prints the path of the administrator's kubeconfig.
func kubeconfig(_ context.Context, c *Cluster, io streams, args []string) error {
	if err := parse(flag.NewFlagSet("kubeconfig", flag.ContinueOnError), args); err != nil {
		return err
	}
	if _, err := os.Stat(c.Kubeconfig()); err != nil {
		return errDown(err)
	}
	fmt.Fprintln(io.Out, c.Kubeconfig())
	return nil
}

// environment is the verb env.
func environment(_ context.Context, c *Cluster, io streams, args []string) error {
	if err := parse(flag.NewFlagSet("env", flag.ContinueOnError), args); err != nil {
		return err
	}
	fmt.Fprintln(io.Out, c.shellLines())
	return nil
}

// kubectl runs the cluster's kubectl as the administrator.
func kubectl(ctx context.Context, c *Cluster, io streams, args []string) error {
	if _, err := os.Stat(c.Kubeconfig()); err != nil {
		return errDown(err)
	}
	cmd := exec.CommandContext(ctx, c.bin("kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return passThrough(cmd, io)
}

// nodeReady returns nil when the API server says that a node can run pods.
func (c *Cluster) nodeReady(ctx context.Context, self node) error {
	var object struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := c.getObject(ctx, "/api/v1/nodes/"+self.Name, &object); err != nil {
		return err
	}
	for _, condition := range object.Status.Conditions {
		if condition.Type == "Ready" {
			if condition.Status == "True" {
				return nil
			}
			return fmt.Errorf("%s is not ready: %s", self.Name, condition.Message)
		}
	}
	return fmt.Errorf("%s has no state yet", self.Name)
}

// getObject reads one object from the API server, as the administrator and from
// the machine's own network, the way that kubectl goes.
func (c *Cluster) getObject(ctx context.Context, path string, object any) error {
	server, err := c.forwardedServer()
	if err != nil {
		return err
	}
	config, err := c.clientTLS("admin")
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server+path, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("asking the API server: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the API server for %s: %s", path, response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(object); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// forwardedServer is the URL that the supervisor wrote into the kubeconfig.
func (c *Cluster) forwardedServer() (string, error) {
	text, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		return "", fmt.Errorf("reading the kubeconfig: %w", err)
	}
	match := regexp.MustCompile(`(?m)^ *server: (\S+)$`).FindSubmatch(text)
	if match == nil {
		return "", errors.New("the kubeconfig names no server")
	}
	server, err := url.Parse(string(match[1]))
	if err != nil {
		return "", fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return server.String(), nil
}
