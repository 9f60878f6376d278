package edges

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"unicode"
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
	golden(t, "shop.dot", dot)
	golden(t, "shop.svg", svg)
	dot, svg = pictures(t, &List{})
	checkPictures(t, dot, svg)
	golden(t, "nothing.dot", dot)
	golden(t, "nothing.svg", svg)
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
	// Between quotes that are not escaped there is nothing but what DOT wrote.
	unquoted, inside := "", false
	for i := 0; i < len(dot); i++ {
		switch {
		case inside && dot[i] == '\\':
			i++
		case dot[i] == '"':
			inside = !inside
		case !inside:
			unquoted += string(dot[i])
		}
	}
	if inside || strings.Contains(unquoted, "evil") {
		t.Errorf("a name got out of its quotes:\n%s", dot)
	}
}

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
