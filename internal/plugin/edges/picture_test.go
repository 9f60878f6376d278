package edges

import (
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func pictures(t *testing.T, l *List) (dot, svg string) {
	t.Helper()
	var d, s strings.Builder
	must.Do(t, errors.Join(l.DOT(&d), l.SVG(&s)))
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

func TestLayers(t *testing.T) {
	for name, c := range map[string]struct {
		arcs string // from and to of each
		want []int
	}{
		"none":                            {"", []int{}},
		"the longest way counts":          {"01 12 02", []int{0, 1, 2}},
		"one arc leads back":              {"01 12 21 23", []int{0, 1, 2, 3}},
		"a node to itself":                {"00 01", []int{0, 1}},
		"all to all":                      {"01 02 10 12 20 21", []int{0, 1, 1}},
		"the busiest of a circle first":   {"01 10 12 21", []int{1, 0, 1}},
		"who only connects stands nearby": {"01 12 32", []int{0, 1, 2, 1}},
	} {
		var g graph
		for word := range strings.FieldsSeq(c.arcs) {
			a := arc{from: int(word[0] - '0'), to: int(word[1] - '0')}
			g.arcs = append(g.arcs, a)
			g.nodes = slices.Grow(g.nodes, 8)[:max(len(g.nodes), a.from+1, a.to+1)]
		}
		if diff := cmp.Diff(c.want, layers(&g)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestArrange has wires lead from each height to another, in which many wait for each other in
// circles.
func TestArrange(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(1, seed))
		var wires []wire
		var taken []int
		to := r.Perm(12)
		for from := range to {
			if from != to[from] {
				wires = append(wires, newWire(from, []int{16 * from}, []int{16 * to[from]}))
			}
			taken = append(taken, 16*from)
		}
		arranged := arrange(wires, taken)
		for _, a := range arranged {
			for _, b := range arranged {
				if a.link != b.link && a.right[0] == b.left[0] && a.track <= b.track {
					t.Fatalf("seed %d: %+v must be right of %+v", seed, a, b)
				}
			}
		}
	}
}
