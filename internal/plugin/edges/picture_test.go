package edges

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
)

func pictures(t *testing.T, l *List) (dot, svg string) {
	t.Helper()
	var d, s strings.Builder
	if err := errors.Join(l.DOT(&d), l.SVG(&s)); err != nil {
		t.Fatal(err)
	}
	return d.String(), s.String()
}

// checkPictures looks at the form of both.
func checkPictures(t *testing.T, dot, svg string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(svg))
	decoder.Strict = true
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("the picture is not well-formed: %v\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok && (e.Name.Local == "script" || e.Name.Local == "image" || e.Name.Local == "a") {
			t.Errorf("the picture has a <%s>", e.Name.Local)
		}
	}
	for what, text := range map[string]string{"graph": dot, "picture": svg} {
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("the %s has characters that are not printable", what)
		}
	}
	for line := range strings.Lines(dot) {
		if !dotLineForm.MatchString(strings.TrimSuffix(line, "\n")) {
			t.Errorf("the graph has the line %s", line)
		}
	}
	// Whoever has Graphviz can say more.
	if _, err := exec.LookPath("dot"); err != nil {
		return
	}
	check := exec.Command("dot", "-Tcanon")
	check.Stdin = strings.NewReader(dot)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("Graphviz: %v\n%s", err, out)
	}
}

func TestPictures(t *testing.T) {
	dot, svg := pictures(t, shop())
	checkPictures(t, dot, svg)
	golden.Check(t, "shop.dot", dot)
	golden.Check(t, "shop.svg", svg)
	dot, svg = pictures(t, &List{})
	checkPictures(t, dot, svg)
	golden.Check(t, "nothing.dot", dot)
	golden.Check(t, "nothing.svg", svg)
}

// TestHostileNames tries to get out of labels.
func TestHostileNames(t *testing.T) {
	bad := `"];evil[label="` + "</text><script>alert(1)</script>\x1b[2J\n\u202e\\"
	l := &List{Items: []Edge{{
		Source:      Endpoint{Kind: "pod", Namespace: bad, Name: bad, Address: netip.MustParseAddr("10.0.0.1")},
		Destination: Endpoint{Kind: "svc", Namespace: "a", Name: bad + strings.Repeat("é", 100), Address: netip.MustParseAddr("10.0.0.2")},
		Port:        1, Verdict: Plaintext, Reason: bad,
	}}}
	dot, svg := pictures(t, l)
	checkPictures(t, dot, svg)
	if strings.Contains(svg, "<script") {
		t.Error("a name became an element")
	}
}

// dotLineForm is every line that a graph may have: whatever comes from outside is within
// quotes that end where they should.
var dotLineForm = func() *regexp.Regexp {
	const quoted = `"(?:[^"\\]|\\.)*"`
	const attribute = `\w+=(?:` + quoted + `|[\w.]+)`
	const attributes = ` \[` + attribute + `(?:, ` + attribute + `)*\];`
	return regexp.MustCompile(`^ *(?:digraph gateways \{|subgraph cluster_\d+ \{|\}|(?:n\d+|n\d+ -> n\d+|node|edge)` + attributes + `|` + attribute + `;)$`)
}()

// TestLargePicture: fifty pods in five namespaces, circles among them; nothing lies
// upon anything else.
func TestLargePicture(t *testing.T) {
	l := &List{}
	pod := func(n int) Endpoint {
		return Endpoint{Kind: "pod", Namespace: fmt.Sprintf("ns-%d", n%5), Name: fmt.Sprintf("workload-with-a-name-%d", n),
			Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})}
	}
	for n := range 50 {
		for i, to := range []int{n * 2, n/3 + 7, n} {
			l.Items = append(l.Items, Edge{Source: pod(n), Destination: pod(to % 50), Port: 80, Verdict: []Verdict{Encrypted, Plaintext, Refused}[i]})
		}
	}
	dot, svg := pictures(t, l)
	checkPictures(t, dot, svg)
	g := l.graph()
	p := place(&g)
	for i, a := range p.boxes {
		if a.x < 0 || a.y < 0 || a.x+a.width > p.width || a.y+svgNodeHeight > p.height {
			t.Errorf("node %d at %+v lies outside of %d×%d", i, a, p.width, p.height)
		}
		for j, b := range p.boxes[:i] {
			if a.x < b.x+b.width && b.x < a.x+a.width && a.y < b.y+svgNodeHeight && b.y < a.y+svgNodeHeight {
				t.Errorf("nodes %d and %d lie upon each other: %+v, %+v", i, j, a, b)
			}
		}
	}
	lanes := make(map[lane]bool)
	for i, way := range p.ways {
		for _, on := range way {
			if lanes[on] {
				t.Errorf("arc %d takes the lane %+v of another", i, on)
			}
			lanes[on] = true
			for j, b := range p.boxes {
				if b.x == on.left && on.y >= b.y-2 && on.y <= b.y+svgNodeHeight+2 {
					t.Errorf("arc %d runs through node %d", i, j)
				}
			}
		}
	}
	if len(lanes) == 0 {
		t.Error("no arc passes by a node")
	}
	for range 5 {
		if again, other := pictures(t, l); again != dot || other != svg {
			t.Fatal("the pictures of one list differ")
		}
	}
}

// TestLayers: arrows point to the right, but for those that close a circle.
func TestLayers(t *testing.T) {
	g := graph{nodes: make([]Endpoint, 5), arcs: []arc{{from: 0, to: 1}, {from: 1, to: 2}, {from: 0, to: 2}, {from: 2, to: 1}, {from: 3, to: 3}, {from: 2, to: 4}}}
	if got := fmt.Sprint(layers(&g)); got != "[0 1 2 0 3]" {
		t.Errorf("layers are %s", got)
	}
}
