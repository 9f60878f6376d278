package identity

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]ID{
		"spiffe://cluster.local/ns/default/sa/default":        {"cluster.local", "default", "default"},
		"spiffe://prod.example.org/ns/kube-system/sa/coredns": {"prod.example.org", "kube-system", "coredns"},
		"spiffe://my_team-1/ns/a/sa/B.c_d-e":                  {"my_team-1", "a", "B.c_d-e"},
		// A trust domain is not a path: names that look like its parts are fine.
		"spiffe://ns/ns/ns/sa/sa": {"ns", "ns", "sa"},
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
		if got.String() != text || got.URL().String() != text {
			t.Errorf("%s: comes back as %s and %s", text, got, got.URL())
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"",
		"spiffe://",
		"spiffe://cluster.local",
		"spiffe://cluster.local/",
		"spiffe:///ns/a/sa/b",
		"SPIFFE://cluster.local/ns/a/sa/b",
		"https://cluster.local/ns/a/sa/b",
		"cluster.local/ns/a/sa/b",
		"spiffe://Cluster.Local/ns/a/sa/b",
		"spiffe://user@cluster.local/ns/a/sa/b",
		"spiffe://cluster.local:443/ns/a/sa/b",
		"spiffe://[::1]/ns/a/sa/b",
		"spiffe://cluster.local/ns//sa/b",
		"spiffe://cluster.local/ns/a/sa/",
		"spiffe://cluster.local/ns/./sa/..",
		"spiffe://cluster.local/ns/a/sa/b/",
		"spiffe://cluster.local/ns/a/sa/b/c",
		"spiffe://cluster.local//ns/a/sa/b",
		"spiffe://cluster.local/sa/a/ns/b",
		"spiffe://cluster.local/NS/a/sa/b",
		"spiffe://cluster.local/ns/a/sa/b?x=y",
		"spiffe://cluster.local/ns/a/sa/b#x",
		"spiffe://cluster.local/ns/%61/sa/b",
		"spiffe://cluster.local/ns/a%2Fb/sa/b",
		"spiffe://cluster.local/ns/a b/sa/b",
		"spiffe://cluster.local/ns/a/sa/b\x00",
		"spiffe://cluster.local/ns/a/sa/b\n",
		"spiffe://cluster.local/ns/ä/sa/b",
		"spiffe://" + strings.Repeat("a", 256) + "/ns/a/sa/b",
		"spiffe://cluster.local/ns/" + strings.Repeat("a", 254) + "/sa/b",
	} {
		if id, err := Parse(text); err == nil {
			t.Errorf("%q was read as %+v", text, id)
		} else if id != (ID{}) {
			t.Errorf("%q: an identity together with an error", text)
		} else if strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("%q: error passes on raw bytes: %q", text, err)
		}
	}
}

func TestFromCertificate(t *testing.T) {
	parse := func(texts ...string) *x509.Certificate {
		cert := &x509.Certificate{}
		for _, text := range texts {
			u := must.Get(url.Parse(text))(t)
			cert.URIs = append(cert.URIs, u)
		}
		return cert
	}
	const good = "spiffe://cluster.local/ns/a/sa/b"
	if id, err := FromCertificate(parse(good)); err != nil || id.String() != good {
		t.Errorf("%v, %v", id, err)
	}
	for name, cert := range map[string]*x509.Certificate{
		"none":          parse(),
		"two":           parse(good, good),
		"one of others": parse(good, "https://example.org/"),
		"authority":     parse("spiffe://cluster.local"),
		"escaped":       parse("spiffe://cluster.local/ns/%61/sa/b"),
		"with query":    parse(good + "?x"),
		"empty query":   parse(good + "?"),
		"with user":     parse("spiffe://me@cluster.local/ns/a/sa/b"),
	} {
		if id, err := FromCertificate(cert); err == nil {
			t.Errorf("%s: %v", name, id)
		}
	}
}

// What Parse accepts has exactly one spelling, so that comparing texts,
// structs or URLs of identities comes to the same.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"spiffe://cluster.local/ns/default/sa/default", "spiffe://a/ns/../sa/b", "spiffe://a/ns/%2e/sa/b",
		"spiffe://a:1/ns/b/sa/c", "spiffe://a/ns/b/sa/c?d#e", "spiffe://[::1%25eth0]/ns/b/sa/c", "//",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := Parse(text)
		if err != nil {
			if id != (ID{}) {
				t.Fatalf("%q: %+v together with an error", text, id)
			}
			return
		}
		if id.String() != text || id.URL().String() != text {
			t.Fatalf("%q comes back as %q and %q", text, id, id.URL())
		}
		if err := id.Validate(); err != nil {
			t.Fatalf("%q is not valid: %v", text, err)
		}
		u, err := url.Parse(text)
		if err != nil {
			t.Fatalf("%q is not a URL: %v", text, err)
		}
		again, err := FromCertificate(&x509.Certificate{URIs: []*url.URL{u}})
		if err != nil || again != id {
			t.Fatalf("%q in a certificate is %+v, %v", text, again, err)
		}
	})
}
