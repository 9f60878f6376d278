//go:build linux

package main

import (
	"embed"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// templates are the configuration files of the components, as text/template.
//
//go:embed templates
var templates embed.FS

// values are what templates refer to.
type values struct {
	Settings
	Dir        string // private directory of the unit
	CA         string // file of the authority's certificate
	BinDir     string
	Node       node
	Nodes      []node
	ClusterDNS string
	Extra      map[string]string
}

func render(name string, v values) (string, error) {
	tmpl, err := template.New(name).Option("missingkey=error").ParseFS(templates, "templates/"+name)
	if err != nil {
		return "", fmt.Errorf("parsing template %s: %w", name, err)
	}
	var text strings.Builder
	if err := tmpl.Execute(&text, v); err != nil {
		return "", fmt.Errorf("filling template %s: %w", name, err)
	}
	return text.String(), nil
}

// renderKubeconfig returns a kubeconfig for the owner of a certificate. It
// contains its key, so that the file can be copied.
func (c *Cluster) renderKubeconfig(server, owner string) (string, error) {
	extra := map[string]string{"Server": server, "User": owner}
	for key, file := range map[string]string{"CA": c.certFile("ca"), "Cert": c.certFile(owner), "Key": c.keyFile(owner)} {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("reading a certificate: %w", err)
		}
		extra[key] = base64.StdEncoding.EncodeToString(data)
	}
	return render("kubeconfig.yaml", values{Extra: extra})
}

// writeControlPlaneFiles writes the configuration of control-plane's components.
func (c *Cluster) writeControlPlaneFiles(settings Settings) error {
	dir := c.path(roleControlPlane)
	// etcd complains about a data directory that others can read.
	if err := os.MkdirAll(filepath.Join(dir, "etcd"), 0o700); err != nil {
		return fmt.Errorf("making etcd's directory: %w", err)
	}
	for _, owner := range []string{"admin", "controller-manager", "scheduler", "coredns"} {
		text, err := c.renderKubeconfig(apiServerURL(), owner)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, owner+".kubeconfig"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	for _, name := range []string{admissionFile, auditFile} {
		text, err := render(name, values{})
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	bind := controlPlaneIPv4().Addr().String()
	if settings.IPv6 {
		bind += " " + controlPlaneIPv6().Addr().String()
	}
	text, err := render("Corefile", values{Settings: settings, Dir: dir, Extra: map[string]string{"Bind": bind}})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "Corefile"), []byte(text), 0o644)
}

// Configuration files of the API server. They are those of examples/, as test/e2e compares.
const (
	// admissionFile exempts watch from Pod Security.
	admissionFile = "pod-security-exemption.yaml"
	// auditFile says which requests are in the audit log.
	auditFile = "audit-policy.yaml"
)

// renderObjects returns the manifest of what a cluster has from the start: its
// nodes, and the Service of the name service.
func renderObjects(settings Settings) (string, error) {
	nodes, err := renderNodes(settings, settings.nodes()...)
	if err != nil {
		return "", err
	}
	others, err := render("objects.yaml", values{
		Settings: settings, ClusterDNS: dnsServiceIP,
		Extra: map[string]string{"DNSServer": controlPlaneIPv4().Addr().String()},
	})
	return nodes + others, err
}

// renderNodes returns the manifest of nodes, whose pod ranges we choose.
func renderNodes(settings Settings, nodes ...node) (string, error) {
	return render("nodes.yaml", values{Settings: settings, Nodes: nodes})
}

// writeNodeFiles writes the configuration of a node's components. It runs in
// the node, after setUpMounts.
func (c *Cluster) writeNodeFiles(settings Settings, self node) error {
	dir := c.path(self.Name)
	snapshots, err := snapshotter("/var/lib")
	if err != nil {
		return err
	}
	clusterCIDR := podCIDRv4
	if settings.IPv6 {
		clusterCIDR += "," + podCIDRv6
	}
	v := values{
		Settings: settings, Dir: dir, CA: c.certFile("ca"), BinDir: c.BinDir(), Node: self, ClusterDNS: dnsServiceIP,
		Extra: map[string]string{
			"Snapshotter": snapshots,
			"Socket":      containerdSocket,
			"Runtime":     c.bin(ociRuntimeName),
			"Cert":        c.certFile(self.Name + "-server"),
			"Key":         c.keyFile(self.Name + "-server"),
			"ClusterCIDR": clusterCIDR,
			"DNSServer":   controlPlaneIPv4().Addr().String(),
		},
	}
	if err := os.MkdirAll(filepath.Join(dir, "cni"), 0o755); err != nil {
		return fmt.Errorf("making the CNI directory: %w", err)
	}
	for target, name := range map[string]string{
		"containerd.toml":     "containerd.toml",
		"kubelet.yaml":        "kubelet.yaml",
		"kube-proxy.yaml":     "kube-proxy.yaml",
		"resolv.conf":         "resolv.conf",
		"cni/10-ptp.conflist": "ptp.conflist",
	} {
		text, err := render(name, v)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, target), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for target, owner := range map[string]string{"kubelet": self.Name + "-client", "kube-proxy": "proxy"} {
		text, err := c.renderKubeconfig(apiServerURL(), owner)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, target+".kubeconfig"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
