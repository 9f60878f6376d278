package edges

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Measures of the drawing, in pixels.
const (
	svgMargin     = 24
	svgBandPad    = 14
	svgBandTitle  = 24
	svgBandGap    = 18
	svgNodeHeight = 30
	svgRow        = 46
	svgLane       = 12
	svgColumnGap  = 150
	svgLegend     = 40
	// svgLetter is about the width of a letter of the 12 pixel monospace font.
	svgLetter   = 7.3
	svgMaxLabel = 32
)

// svgColour returns the colour of a verdict; they differ in lightness, too.
func svgColour(v Verdict) string {
	switch v {
	case Encrypted:
		return "#2e7d32"
	case Refused:
		return "#616161"
	}
	return "#d50000"
}

// SVG draws l as a picture that needs nothing else: a column for each step from the
// first to connect to the last to be reached, a band for each namespace.
func (l *List) SVG(w io.Writer) error {
	g := l.graph()
	p := place(&g)
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="monospace" font-size="12">`+"\n",
		p.width, p.height, p.width, p.height)
	out.WriteString("<title>Edges between gateways</title>\n<defs>\n")
	for _, v := range []Verdict{Encrypted, Plaintext, Refused} {
		fmt.Fprintf(&out, `<marker id="%s" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="%s"/></marker>`+"\n", v, svgColour(v))
	}
	fmt.Fprintf(&out, "</defs>\n<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", p.width, p.height)
	for _, b := range p.bands {
		fmt.Fprintf(&out, `<rect x="%d" y="%d" width="%d" height="%d" rx="8" fill="#f5f5f5" stroke="#bdbdbd"/>`+"\n", svgMargin, b.y, p.width-2*svgMargin, b.height)
		fmt.Fprintf(&out, `<text x="%d" y="%d" fill="#616161">%s</text>`+"\n", svgMargin+10, b.y+16, svgText(b.name))
	}
	for i := range g.arcs {
		drawArc(&out, &g, &p, i)
	}
	for i := range g.nodes {
		drawNode(&out, &g.nodes[i], p.boxes[i])
	}
	drawLegend(&out, p.height-svgLegend/2)
	out.WriteString("</svg>\n")
	_, err := w.Write(out.Bytes())
	return err
}

func drawNode(out *bytes.Buffer, e *Endpoint, b box) {
	fill, radius := "#ffffff", 5
	switch e.Kind {
	case "svc":
		fill, radius = "#e3f2fd", svgNodeHeight/2
	case "", "node":
		fill = "#eeeeee"
	}
	fmt.Fprintf(out, `<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" rx="%d" fill="%s" stroke="#424242"/>`,
		svgText(nodeTitle(e)+", "+e.Address.String()), b.x, b.y, b.width, svgNodeHeight, radius, fill)
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="middle" fill="#212121">%s</text></g>`+"\n", b.x+b.width/2, b.y+19, svgText(shorten(nodeLabel(e))))
}

// drawArc draws a curve from the right of a node to the left of another.
func drawArc(out *bytes.Buffer, g *graph, p *placement, i int) {
	a := &g.arcs[i]
	from, to := p.boxes[a.from], p.boxes[a.to]
	x1, y1 := from.x+from.width, from.y+svgNodeHeight/2+p.leaves[i]
	x2, y2 := to.x, to.y+svgNodeHeight/2+p.enters[i]
	line := `stroke-width="1.5"`
	switch {
	case a.backend:
		line = `stroke-width="0.8"`
	case a.verdict == Plaintext:
		line = `stroke-width="2.5"`
	}
	if a.verdict == Refused {
		line += ` stroke-dasharray="6 4"`
	}
	curve := fmt.Sprintf("M%d %d", x1, y1)
	for _, lane := range p.ways[i] {
		curve += bend(x1, y1, lane.left, lane.y) + fmt.Sprintf("H%d", lane.right)
		x1, y1 = lane.right, lane.y
	}
	curve += bend(x1, y1, x2, y2)
	if a.from == a.to {
		top := from.y - 16
		curve = fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, x1+40, top, x2-40, top, x2, y2)
	}
	fmt.Fprintf(out, `<g><title>%s</title><path d="%s" fill="none" stroke="%s" %s marker-end="url(#%s)"/></g>`+"\n",
		svgText(a.title(g)), curve, svgColour(a.verdict), line, a.verdict)
}

// bend leads from one point to another, level at both.
func bend(x1, y1, x2, y2 int) string {
	reach := max((x2-x1)/2, 50)
	return fmt.Sprintf("C%d %d %d %d %d %d", x1+reach, y1, x2-reach, y2, x2, y2)
}

func drawLegend(out *bytes.Buffer, y int) {
	x := svgMargin
	for _, v := range []Verdict{Encrypted, Plaintext, Refused} {
		dash := ""
		if v == Refused {
			dash = ` stroke-dasharray="6 4"`
		}
		fmt.Fprintf(out, `<path d="M%d %dh36" stroke="%s" stroke-width="2"%s/><text x="%d" y="%d" fill="#212121">%s</text>`+"\n", x, y, svgColour(v), dash, x+44, y+4, v)
		x += 130
	}
}

func shorten(text string) string {
	runes := []rune(text)
	if len(runes) <= svgMaxLabel {
		return text
	}
	// Both ends of a pod's name tell it from others.
	return string(runes[:svgMaxLabel/2-1]) + "…" + string(runes[len(runes)-svgMaxLabel/2:])
}

// svgText escapes text for XML, cleaned as for a terminal.
func svgText(text string) string {
	var out bytes.Buffer
	// Writing to a buffer cannot fail.
	_ = xml.EscapeText(&out, []byte(terminal.Clean(text)))
	return out.String()
}
