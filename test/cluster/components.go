//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

const containerdSocket = "/run/containerd/containerd.sock"

// controlPlaneStore are etcd and the API server, which everything else waits for.
func (c *Cluster) controlPlaneStore(settings Settings) []component {
	serviceCIDRs := serviceCIDRv4
	if settings.IPv6 {
		serviceCIDRs += "," + serviceCIDRv6
	}
	return []component{
		{Name: "control-plane/etcd", Args: []string{"etcd",
			"--data-dir", c.path("control-plane", "etcd"),
			"--listen-client-urls", "http://127.0.0.1:2379",
			"--advertise-client-urls", "http://127.0.0.1:2379",
			"--listen-peer-urls", "http://127.0.0.1:2380",
			"--initial-advertise-peer-urls", "http://127.0.0.1:2380",
			"--initial-cluster", "default=http://127.0.0.1:2380",
			"--unsafe-no-fsync", // the data does not outlive the cluster
			"--log-level", "warn",
		}, Ready: httpReady("http://127.0.0.1:2379/health")},
		{Name: "control-plane/kube-apiserver", Args: []string{"kube-apiserver",
			"--etcd-servers=http://127.0.0.1:2379",
			"--advertise-address=" + controlPlaneIPv4().Addr().String(),
			fmt.Sprintf("--secure-port=%d", apiPort),
			"--service-cluster-ip-range=" + serviceCIDRs,
			"--tls-cert-file=" + c.certFile("apiserver"),
			"--tls-private-key-file=" + c.keyFile("apiserver"),
			"--client-ca-file=" + c.certFile("ca"),
			"--kubelet-certificate-authority=" + c.certFile("ca"),
			"--kubelet-client-certificate=" + c.certFile("apiserver-kubelet-client"),
			"--kubelet-client-key=" + c.keyFile("apiserver-kubelet-client"),
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file=" + c.keyFile("service-accounts"),
			"--service-account-signing-key-file=" + c.keyFile("service-accounts"),
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			// It reaches webhooks and aggregated APIs at their pods: no kube-proxy is beside it.
			"--enable-aggregator-routing=true",
			"--allow-privileged=true",
			"--admission-control-config-file=" + c.path(roleControlPlane, admissionFile),
			"--audit-policy-file=" + c.path(roleControlPlane, auditFile),
			"--audit-log-path=" + c.path(roleControlPlane, "audit.log"),
			"--audit-log-maxsize=100",
			"--audit-log-maxbackup=1",
		}, Ready: c.apiServerReady},
	}
}

// controlPlaneControllers are what works on the API server's objects.
func (c *Cluster) controlPlaneControllers(settings Settings) []component {
	kubeconfig := func(name string) []string {
		path := c.path("control-plane", name+".kubeconfig")
		return []string{
			"--kubeconfig=" + path, "--authentication-kubeconfig=" + path, "--authorization-kubeconfig=" + path,
			"--leader-elect=false",
			"--authentication-skip-lookup=true", // there is no aggregation layer to look up
			"--bind-address=127.0.0.1",
		}
	}
	return []component{
		{Name: "control-plane/kube-controller-manager", Args: append([]string{"kube-controller-manager",
			"--use-service-account-credentials=true",
			"--service-account-private-key-file=" + c.keyFile("service-accounts"),
			"--root-ca-file=" + c.certFile("ca"),
			"--cluster-signing-cert-file=" + c.certFile("ca"),
			"--cluster-signing-key-file=" + c.keyFile("ca"),
			// It makes the directory; the default lies in /usr, which is the machine's.
			"--flex-volume-plugin-dir=" + c.path("control-plane", "volume-plugins"),
		}, kubeconfig("controller-manager")...)},
		{Name: "control-plane/kube-scheduler", Args: append([]string{"kube-scheduler"}, kubeconfig("scheduler")...)},
		{Name: "control-plane/coredns", Args: []string{"coredns",
			"-conf", c.path("control-plane", "Corefile"),
		}, Ready: dnsReady(controlPlaneIPv4().Addr().String())},
	}
}

// nodeRuntime is what a node can have before there is an API server.
func (c *Cluster) nodeRuntime(self node) []component {
	return []component{{Name: self.Name + "/containerd",
		Args: []string{"containerd", "--config", c.path(self.Name, "containerd.toml")},
		Ready: func(ctx context.Context) error {
			_, err := c.output(ctx, "", "ctr", "--address", containerdSocket, "version")
			return err
		},
	}}
}

// nodeAgents are what makes a machine a node of the cluster.
func (c *Cluster) nodeAgents(settings Settings, self node) []component {
	return []component{
		{Name: self.Name + "/kubelet", Args: []string{"kubelet",
			"--config=" + c.path(self.Name, "kubelet.yaml"),
			"--kubeconfig=" + c.path(self.Name, "kubelet.kubeconfig"),
			"--hostname-override=" + self.Name,
			"--node-ip=" + nodeIPs(settings, self),
		}, Ready: httpReady("http://127.0.0.1:10248/healthz")},
		// kube-proxy waits for the addresses that kubelet gives the node. It works
		// once the address of a Service does.
		{Name: self.Name + "/kube-proxy", Args: []string{"kube-proxy",
			"--config=" + c.path(self.Name, "kube-proxy.yaml"),
			"--hostname-override=" + self.Name,
		}, Ready: dialReady(net.JoinHostPort(apiServiceIP, "443"))},
	}
}

// httpReady is ready when a GET of the address is answered with 200.
func httpReady(address string) func(context.Context) error {
	return func(ctx context.Context) error { return get(ctx, http.DefaultClient, address) }
}

// dialReady is ready when the TCP address accepts connections.
func dialReady(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// apiServerReady asks the API server inside the cluster.
func (c *Cluster) apiServerReady(ctx context.Context) error {
	config, err := c.clientTLS("")
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	return get(ctx, &http.Client{Transport: transport}, apiServerURL()+"/readyz")
}

func get(ctx context.Context, client *http.Client, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", address, response.Status)
	}
	return nil
}

// dnsReady is ready when the server at address knows the API server's Service.
func dnsReady(address string) func(context.Context) error {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(address, "53"))
	}}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		found, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
		if err == nil && !strings.Contains(strings.Join(found, " "), apiServiceIP) {
			err = errors.New("the name service does not know the API server")
		}
		return err
	}
}

// nodeIPs is the value of kubelet's --node-ip.
func nodeIPs(settings Settings, self node) string {
	if !settings.IPv6 {
		return self.IPv4.String()
	}
	return self.IPv4.String() + "," + self.IPv6.String()
}

// importArgs is the command that imports an image archive into a node.
func importArgs(socket, archive string) []string {
	return []string{"ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", archive}
}

// snapshotter returns containerd's snapshotter for a directory: overlayfs
// cannot be stacked on itself, as in a container.
func snapshotter(dir string) (string, error) {
	overlay, err := isOverlay(dir)
	if err != nil {
		return "", fmt.Errorf("looking at the file system of %s: %w", dir, err)
	}
	if overlay {
		return "native", nil
	}
	return "overlayfs", nil
}
