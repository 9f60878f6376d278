package edges

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
)

// drawn makes a list of edges from words "a/x>b/y:80", which lead from pod x of namespace a to
// port 80 of pod y of namespace b. The end "~" says plaintext, and "!" refused. An endpoint with
// "svc:" before its name is a Service, and one without a namespace an address.
func drawn(words ...string) *List {
	l := &List{}
	number := 0
	endpoint := func(word string) Endpoint {
		number++
		e := Endpoint{Kind: "pod", Address: netip.AddrFrom4([4]byte{10, 0, byte(number >> 8), byte(number)})}
		namespace, name, ok := strings.Cut(word, "/")
		if !ok {
			return Endpoint{Address: netip.MustParseAddr(word)}
		}
		if service, ok := strings.CutPrefix(name, "svc:"); ok {
			e.Kind, name = "svc", service
		}
		e.Namespace, e.Name = namespace, name
		return e
	}
	for _, word := range strings.Fields(strings.Join(words, " ")) {
		e := Edge{Verdict: Encrypted, Connections: 1}
		if rest, ok := strings.CutSuffix(word, "~"); ok {
			word, e.Verdict = rest, Plaintext
		} else if rest, ok := strings.CutSuffix(word, "!"); ok {
			word, e.Verdict = rest, Refused
		}
		from, to, _ := strings.Cut(word, ">")
		to, backends, _ := strings.Cut(to, "=")
		at := strings.LastIndex(to, ":")
		fmt.Sscan(to[at+1:], &e.Port)
		e.Source, e.Destination = endpoint(from), endpoint(to[:at])
		for backend := range strings.SplitSeq(backends, ",") {
			if backend != "" {
				e.Backends = append(e.Backends, endpoint(backend))
			}
		}
		l.Items = append(l.Items, e)
	}
	return l
}

// random draws edges between nodes pods of some namespaces, some of them plaintext.
func random(nodes, edges, namespaces int) *List {
	r := rand.New(rand.NewPCG(uint64(nodes), uint64(edges)))
	name := func(n int) string { return fmt.Sprintf("ns-%d/pod-%02d", n%namespaces, n) }
	var words []string
	for range edges {
		words = append(words, fmt.Sprintf("%s>%s:%d%s", name(r.IntN(nodes)), name(r.IntN(nodes)), 80+r.IntN(9000), []string{"", "", "~", "!"}[r.IntN(4)]))
	}
	return drawn(words...)
}

// each returns the words of one format for the numbers from 0 to n.
func each(n int, format string) string {
	var words []string
	for i := range n {
		words = append(words, fmt.Sprintf(format, i))
	}
	return strings.Join(words, " ")
}

// pairs returns the words of one format for all pairs of different numbers from 0 to n.
func pairs(n int, format string) string {
	var words []string
	for i := range n {
		for j := range n {
			if i != j {
				words = append(words, fmt.Sprintf(format, i, j))
			}
		}
	}
	return strings.Join(words, " ")
}

// ring returns the words of one format for each number below n and the one after it.
func ring(n int, format string) string {
	var words []string
	for i := range n {
		words = append(words, fmt.Sprintf(format, i, (i+1)%n))
	}
	return strings.Join(words, " ")
}

// drawings are graphs as clusters have them, and some that are harder to draw.
func drawings() map[string]*List {
	long := strings.Repeat("long-", 12)
	return map[string]*List{
		"back":       drawn("a/pod-01>a/pod-02:80 a/pod-02>a/pod-01:8080~ a/pod-02>a/pod-03:80 a/pod-03>a/pod-01:80"),
		"pair":       drawn("a/x>a/y:80 a/y>a/x:81"),
		"circle":     drawn(ring(8, "a/n%d>a/n%d:80")),
		"chords":     drawn(ring(9, "a/n%d>b/n%d:80"), "b/n4>a/n1:443~ a/n7>b/n2:443! b/n8>a/n3:9 a/n5>b/n5:7"),
		"chain":      drawn(ring(12, "a/n%d>a/n%d:5432"), "a/n3>a/n9:1~"),
		"hub in":     drawn(each(24, "a/client-%d>data/db:5432"), "a/client-3>data/db:9187~"),
		"hub out":    drawn(each(24, "edge/ingress>shop/web-%d:8080")),
		"hub both":   drawn(each(12, "a/n%d>q/queue-0:5672"), each(12, "q/queue-0>a/n%d:9000"), each(12, "q/queue-0>b/m%d:9000!"), each(4, "b/m%d>q/queue-0:5672~")),
		"bipartite":  drawn(strings.NewReplacer("L", "web/front").Replace(pairs(7, "L-%d>api/back-%d:8443"))),
		"mesh":       drawn(pairs(5, "db/cassandra-%d>db/cassandra-%d:7000")),
		"dense":      random(20, 80, 1),
		"namespaces": drawn(each(12, "ns-%[1]d/front>ns-%[1]d/back:80 ns-%[1]d/back>ns-3/db:5432 mon/prom>ns-%[1]d/front:9090~"), ring(12, "ns-%d/back>ns-%d/front:80")),
		"loops":      drawn(each(6, "a/n%[1]d>a/n%[1]d:80 a/n%[1]d>b/m:80"), "b/m>b/m:1 b/m>b/m:2~ b/m>b/m:3!"),
		"parallel":   drawn("a/x>a/y:80 a/x>a/y:81 a/x>a/y:82 a/x>a/y:83 a/x>a/y:84~ a/x>a/y:85! a/y>a/x:9 a/y>a/x:10~ a/y>b/z:1 a/x>b/z:3!"),
		"long names": drawn("some-"+long+"namespace/"+long+"a>b/"+long+"b:80", "b/"+long+"b>other-"+long+"/c:65535", each(12, "b/"+long+"b>other-"+long+"/c:600%02d")),
		"shop":       shop(),
		"boutique": drawn("outside/lb>shop/frontend:8080~", each(3, "shop/frontend>shop/svc:cart:7070=shop/cart-%d"), "shop/frontend>shop/svc:catalog:3550=shop/catalog-0,shop/catalog-1",
			"shop/frontend>shop/svc:currency:7000=shop/currency-0 shop/frontend>shop/svc:checkout:5050=shop/checkout-0 shop/frontend>shop/svc:ads:9555=shop/ads-0",
			"shop/checkout-0>shop/svc:cart:7070=shop/cart-0 shop/checkout-0>shop/svc:catalog:3550=shop/catalog-0 shop/checkout-0>shop/svc:currency:7000=shop/currency-0",
			"shop/checkout-0>shop/svc:payment:50051=shop/payment-0 shop/checkout-0>shop/svc:mail:5000=shop/mail-0", each(3, "shop/cart-%d>data/redis-0:6379"), "data/redis-0>data/redis-1:6379 data/redis-1>data/redis-0:6379"),
		"sixty":   random(60, 120, 5),
		"scrapes": drawn(each(30, "mon/prometheus>team-%[1]d/app:9090")+" "+each(30, "team-%[1]d/app>mon/svc:loki:3100=mon/loki-0"), "mon/loki-0>mon/prometheus:9090~"),
		"outside": drawn("203.0.113.9>a/web:443~ 203.0.113.10>a/web:443! 2001:db8::1>a/web:443~ a/web>a/api:80 a/api>192.0.2.1:5432~ a/web>2001:db8:ffff:ffff:ffff:ffff:ffff:ffff:443~ a/api>a/web:80"),
	}
}
