package declared

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

// said are annotations, given as "mode=strict" and so on.
func said(words ...string) map[string]string {
	annotations := map[string]string{"example.org/mode": "else", api.Annotation: "true", AnnotationUpgrade: "false"}
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		annotations[api.AnnotationPrefix+name] = value
	}
	return annotations
}

// told are the values of s, and what is wrong with others.
func told(s Settings) []string {
	var list []string
	for _, v := range s {
		text := v.Name + "=" + v.Text + " of " + v.From
		if v.Err != nil {
			text = v.Err.Error()
		}
		list = append(list, text)
	}
	return list
}

func TestPrecedence(t *testing.T) {
	for _, c := range []struct {
		name                     string
		pod, workload, namespace map[string]string
		want                     map[From][]string
	}{
		{"nothing is declared", said(), nil, said(), map[From][]string{FromAll: nil}},
		{"the most specific counts", said("mode=strict"), said("mode=permissive", "log=none"), said("mode=permissive", "log=refused", "wire=port"), map[From][]string{
			FromAll: {"mode=strict of pod", "wire=port of namespace/shop", "log=none of deployment/web"},
			FromNamespaces: {"mode=permissive of namespace/shop", "wire=port of namespace/shop", "log=refused of namespace/shop",
				"annotation kube-gateway.io/mode of pod: watch heeds the annotations of namespaces alone",
				"annotation kube-gateway.io/log of deployment/web: watch heeds the annotations of namespaces alone"},
			FromNobody: nil,
		}},
		{"a typo does not give way", said("mode=stric"), said("mode=permissive"), said("mode=strict"), map[From][]string{
			FromAll: {`annotation kube-gateway.io/mode of pod: "stric" is unknown`}}},
		{"a name that is none", said(), nil, said("moed=strict"), map[From][]string{
			FromAll: {"annotation kube-gateway.io/moed of namespace/shop: there is no such setting"}}},
	} {
		for from, want := range c.want {
			places := []Place{{"pod", c.pod}, {"deployment/web", c.workload}, {"namespace/shop", c.namespace}}
			expect.Equal(t, c.name+", "+string(from), want, told(from.Resolve(places...)))
		}
	}
}

// TestValues declares each setting, well and wrong.
func TestValues(t *testing.T) {
	for text, want := range map[string]string{
		"mode=strict": "strict", "mode= permissive\n": "permissive", "mode=": "", "mode=Strict": "",
		"wire=auto": "auto", "wire=port": "port", "wire=inband": "inband", "wire=udp": "",
		"allow=everyone": "everyone", "allow=ns/shop/sa/* ns/ops/sa/db:5432,6000-6010": "ns/shop/sa/* ns/ops/sa/db:5432,6000-6010", "allow=": "", "allow=shop/*": "", "allow=everyone ns/a/sa/b": "",
		"deny=nobody": "nobody", "deny=ns/dev/sa/*": "ns/dev/sa/*", "deny=ns/dev": "",
		"audit=true": "true", "audit=false": "false", "audit=yes": "",
		"max-connections-per-peer=0": "0", "max-connections-per-peer=17": "17", "max-connections-per-peer=-1": "", "max-connections-per-peer=many": "",
		"allow-plaintext-from=none": "none", "allow-plaintext-from=10.0.0.0/8:80,443, 10.1.1.1": "10.0.0.0/8:80,443,10.1.1.1/32", "allow-plaintext-from=10.0.0.0": "10.0.0.0/32", "allow-plaintext-from=10.0.0.0/33": "", "allow-plaintext-from=": "",
		"log=connections": "connections", "log=refused": "refused", "log=none": "none", "log=all": "",
	} {
		settings := Resolve(Place{"pod", said(text)})
		got, c := "", &api.Config{Mode: api.Strict, Wire: api.WireInband}
		if settings.Err() == nil {
			settings.Change(c)
			got = settings[0].In(c)
		} else if api.Hint(settings[0].Err) == "" && !strings.Contains(text, "everyone ") {
			t.Errorf("%q is wrong without a hint: %v", text, settings.Err())
		}
		expect.Equal(t, text, want, got)
	}
	for _, s := range Table() {
		c := new(api.Config)
		if err := s.read(c, s.Default); err != nil || s.In(c) != s.Default || s.In(new(api.Config)) != s.Default && s.Name != "mode" {
			t.Errorf("the default of %s is %q: %v", s.Name, s.In(c), err)
		}
	}
}

// TestWrongValuesLoosenNothing: what runs keeps what it has, and what is new keeps out whom it may.
func TestWrongValuesLoosenNothing(t *testing.T) {
	wrong := Resolve(Place{"pod", said("mode=permisive", "allow=ns/shop", "deny=x", "audit=tru", "allow-plaintext-from=10.0.0.0/99", "log=x", "max-connections-per-peer=x", "wire=x", "moed=x")})
	before := func() api.Config {
		return api.Config{Mode: api.Permissive, Wire: api.WireInband, Rules: api.Rules{Allow: []string{"ns/a/sa/*"}, Audit: true, MaxPerPeer: 5},
			Named: api.Coverage{PlaintextFrom: []api.Source{{From: netip.MustParsePrefix("10.0.0.0/8")}}}}
	}
	c, want := before(), before()
	wrong.Change(&c)
	expect.Equal(t, "a gateway that runs", want, c)
	wrong.Apply(&c)
	want.Mode, want.Deny, want.Audit, want.Named.PlaintextFrom = api.Strict, []string{"ns/*/sa/*"}, false, nil
	expect.Equal(t, "a new gateway", want, c)
	if inPlace, replaced := wrong.Missing(new(api.Config)); len(inPlace)+len(replaced) > 0 {
		t.Errorf("%v and %v are missing", inPlace, replaced)
	}
}

// TestTooMuch: what no gateway takes is wrong, so that a new one is closed and not missing. Messages stay short.
func TestTooMuch(t *testing.T) {
	rules := func(n int) string { return strings.TrimSpace(strings.Repeat("ns/a/sa/b ", n)) }
	var sources []string
	for i := range 1001 {
		sources = append(sources, fmt.Sprintf("10.0.%d.%d", i/256, i%256))
	}
	for name, c := range map[string]struct {
		said []string
		deny bool
	}{
		"rules":           {[]string{"allow=" + rules(1001)}, true},
		"rules together":  {[]string{"allow=" + rules(600), "deny=" + rules(600)}, true},
		"long rules":      {[]string{"allow=" + strings.TrimSpace(strings.Repeat("ns/"+strings.Repeat("a", 250)+"/sa/b ", 200))}, true},
		"sources":         {[]string{"allow-plaintext-from=" + strings.Join(sources, ",")}, false},
		"ports":           {[]string{"allow-plaintext-from=10.0.0.1/32:1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33,35,37,39,41,43"}, false},
		"ports of ranges": {[]string{"allow-plaintext-from=10.0.0.1/32:1,3,5,7,9,11,13,15,17,19,21,10.0.0.0/8:2001,2003,2005,2007,2009,2011,2013"}, false},
		"text":            {[]string{"mode=" + strings.Repeat("strict", 10000)}, false},
		"number":          {[]string{"max-connections-per-peer=" + strings.Repeat("1", 10000)}, false},
		"source":          {[]string{"allow-plaintext-from=" + strings.Repeat("1", 10000)}, false},
		"audit":           {[]string{"audit=" + strings.Repeat("1", 10000)}, false},
	} {
		settings := Resolve(Place{"pod", said(c.said...)})
		err := settings.Err()
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("%s: error of %d bytes", name, len(fmt.Sprint(err)))
			continue
		}
		config := new(api.Config)
		settings.Apply(config)
		if _, err := config.Rules.Parse(); err != nil || len(config.Named.PlaintextFrom) > 0 || c.deny != (len(config.Deny) == 1 && config.Deny[0] == "ns/*/sa/*") {
			t.Errorf("%s: a new gateway gets %+v, %v", name, config, err)
		}
	}
}

func TestMissing(t *testing.T) {
	settings := Resolve(Place{"pod", said("mode=strict", "wire=port", "allow=everyone", "log=refused")})
	status := &api.Status{Mode: api.Permissive, Wire: api.WireAuto, Log: api.LogStatus{Level: api.LogRefused}}
	inPlace, replaced := settings.Missing(InForce(status))
	expect.Equal(t, "in place", "mode=strict of pod", inPlace.String())
	expect.Equal(t, "by another gateway", "wire=port of pod", replaced.String())
	c := InForce(status)
	c.Named.NodePorts = api.DefaultNodePorts()
	settings.Change(c)
	inPlace, replaced = settings.Missing(c)
	expect.Equal(t, "what is left", "", inPlace.String()+replaced.String())
	if c.Named.NodePorts != [2]uint16{} {
		t.Errorf("node ports %v with wire port", c.Named.NodePorts)
	}
}

// TestReader reads the annotations of a Deployment that a pod belongs to by way of a ReplicaSet, and of its namespace.
func TestReader(t *testing.T) {
	pod := fakecluster.NewPod("web-5c9-x")
	pod.Labels = map[string]string{"pod-template-hash": "5c9"}
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5c9", UID: "rs", Controller: new(true)}}
	client := fakecluster.New(t, pod,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Annotations: said("log=none")}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: said("mode=strict", "log=refused")}})
	settings, unread := NewReader(t.Context(), client).Read(pod)
	expect.Equal(t, "declared", []string{"mode=strict of namespace/shop", "log=none of deployment/web"}, told(settings))
	expect.Equal(t, "unread", []error(nil), unread)
	client.Forbid("get", "namespaces")
	settings, unread = NewReader(t.Context(), client).Read(pod)
	expect.Equal(t, "declared without a right", []string{"log=none of deployment/web"}, told(settings))
	if len(unread) != 1 || !strings.Contains(unread[0].Error(), "namespace/shop") {
		t.Errorf("unread: %v", unread)
	}
	pod.OwnerReferences[0].Name = "other-5d0"
	if w, ok := WorkloadOf(pod); ok {
		t.Errorf("%v owns a ReplicaSet that is not named after it", w)
	}
}
