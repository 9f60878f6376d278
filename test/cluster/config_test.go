//go:build linux

package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"strings"
	"testing"
)

func TestTemplatesRender(t *testing.T) {
	entries, err := templates.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	for _, ipv6 := range []bool{false, true} {
		settings := Settings{Nodes: 2, IPv6: ipv6, CNIPlugins: "/usr/lib/cni"}
		v := values{Settings: settings, Dir: "/state/node-1", CA: "/ca.crt", BinDir: "/bin", Node: newNode(1),
			Nodes: settings.nodes(), ClusterDNS: dnsServiceIP, Extra: map[string]string{}}
		for _, key := range []string{"Server", "User", "CA", "Cert", "Key", "Bind", "DNSServer", "Snapshotter", "Socket", "Runtime", "ClusterCIDR"} {
			v.Extra[key] = "extra-" + key
		}
		for _, entry := range entries {
			text, err := render(entry.Name(), v)
			if err != nil {
				t.Errorf("%s: %v", entry.Name(), err)
			}
			if strings.Contains(text, "{{") || strings.Contains(text, "\t") {
				t.Errorf("%s: template language or a tab is left in\n%s", entry.Name(), text)
			}
			if !ipv6 && strings.Contains(text, "fd00:") {
				t.Errorf("%s: IPv6 addresses without IPv6\n%s", entry.Name(), text)
			}
		}
		v.Extra = nil
		if text, err := render("resolv.conf", v); err == nil {
			t.Errorf("a missing value went unnoticed: %q", text)
		}
	}
}

func TestCNIConfiguration(t *testing.T) {
	for _, test := range []struct {
		ipv6 bool
		want string
	}{
		{false, "10.244.2.0/24"},
		{true, "10.244.2.0/24 fd00:10:244:2::/64"},
	} {
		text, err := render("ptp.conflist", values{Settings: Settings{IPv6: test.ipv6}, Node: newNode(2)})
		if err != nil {
			t.Fatal(err)
		}
		var config struct {
			Plugins []struct {
				IPMasq bool
				IPAM   struct {
					Ranges [][]struct{ Subnet string }
					Routes []struct{ Dst string }
				}
			}
		}
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		var subnets []string
		for _, set := range config.Plugins[0].IPAM.Ranges {
			subnets = append(subnets, set[0].Subnet)
		}
		if got := strings.Join(subnets, " "); got != test.want || len(config.Plugins[0].IPAM.Routes) != len(subnets) {
			t.Errorf("IPv6 %v: subnets %q with %d routes", test.ipv6, got, len(config.Plugins[0].IPAM.Routes))
		}
		if config.Plugins[0].IPMasq {
			t.Error("pods would hide behind their node's address")
		}
	}
}

func TestObjectsGiveNodesTheirRanges(t *testing.T) {
	text, err := renderObjects(Settings{Nodes: 2, IPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"name: node-1\nspec:\n  podCIDR: 10.244.1.0/24\n  podCIDRs: [10.244.1.0/24, \"fd00:10:244:1::/64\"]\n---\n",
		"name: node-2\nspec:\n  podCIDR: 10.244.2.0/24\n",
		"clusterIP: 10.96.0.10\n",
		"addresses: [172.30.0.1]\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestCertificates(t *testing.T) {
	c := newTestCluster(t)
	if err := c.claim(); err != nil {
		t.Fatal(err)
	}
	settings := Settings{Nodes: 2}
	if err := c.makeCertificates(settings); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(readCertificate(t, c.certFile("ca")))
	for _, l := range leaves(settings) {
		certificate := readCertificate(t, c.certFile(l.file))
		_, err := certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{l.extension}})
		if err != nil {
			t.Errorf("%s: %v", l.file, err)
		}
		if certificate.Subject.CommonName != l.name || strings.Join(certificate.Subject.Organization, ",") != strings.Join(l.groups, ",") {
			t.Errorf("%s is for %s", l.file, certificate.Subject)
		}
		for _, host := range l.hosts {
			if err := certificate.VerifyHostname(host); err != nil {
				t.Errorf("%s: %v", l.file, err)
			}
		}
		if info, err := os.Stat(c.keyFile(l.file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: key with mode %v, %v", l.file, info.Mode(), err)
		}
	}
	// The kubeconfig has everything in it, and getObject finds the server there.
	text, err := c.renderKubeconfig("https://127.0.0.1:4711", "admin")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Kubeconfig(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if server, err := c.forwardedServer(); err != nil || server != "https://127.0.0.1:4711" {
		t.Errorf("the server is %q, %v", server, err)
	}
}

func readCertificate(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s is not PEM", file)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
