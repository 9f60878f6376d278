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
	svgMargin    = 24
	svgGrid      = 8   // what heights are multiples of
	svgMinWidth  = 420 // room for the legend
	svgBandPad   = 16
	svgBandTitle = 24
	svgBandGap   = 16
	svgBoxPad    = 16
	svgBoxGap    = 16
	svgPitch     = 16 // between arcs that leave a box beside each other
	svgTrack     = 10 // between upright parts of arcs
	svgClear     = 7  // between a split arc and level parts of others
	svgStub      = 16 // of an arc at a box, with the arrowhead
	svgRound     = 6  // the radius of corners
	svgLegend    = 40
	svgMaxLabel  = 32 // letters
)

// svgColour returns the colour of a verdict. The colours differ in lightness, too.
func svgColour(v Verdict) string {
	switch v {
	case Encrypted:
		return "#2e7d32"
	case Refused:
		return "#616161"
	}
	return "#d50000"
}

// SVG draws l as a picture without references to other files. Arcs lead from column to
// column where they can, and each namespace is a band.
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
		drawArc(&out, &g.arcs[i], g.arcs[i].title(&g), p.routes[i])
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
		fill, radius = "#e3f2fd", 15
	case "", "node":
		fill = "#eeeeee"
	}
	fmt.Fprintf(out, `<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" rx="%d" fill="%s" stroke="#424242"/>`,
		svgText(nodeTitle(e)+", "+e.Address.String()), b.x, b.y, b.width, b.height, radius, fill)
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="middle" fill="#212121">%s</text></g>`+"\n", b.x+b.width/2, b.y+b.height/2+4, svgText(shorten(nodeLabel(e))))
}

// drawArc draws the way of an arc, with round corners and the label right before the
// arrowhead.
func drawArc(out *bytes.Buffer, a *arc, title string, way []corner) {
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
	last := len(way) - 1
	path := fmt.Sprintf("M%d %d", way[0].x, way[0].y)
	for i := 1; i < last; i++ {
		before, at, after := way[i-1], way[i], way[i+1]
		in, on := at.towards(before), at.towards(after)
		path += fmt.Sprintf("L%d %dQ%d %d %d %d", in.x, in.y, at.x, at.y, on.x, on.y)
	}
	end, text := way[last], ""
	if label := a.shortLabel(); label != "" {
		width, sign := textWidth(label), 1
		if way[last-1].x > end.x {
			sign = -1
		}
		near, far := end.x-sign*svgStub, end.x-sign*(svgStub+width)
		path += fmt.Sprintf("L%d %dM%d %d", far, end.y, near, end.y)
		text = fmt.Sprintf(`<text x="%d" y="%d" text-anchor="middle" fill="%s">%s</text>`, (near+far)/2, end.y+4, svgColour(a.verdict), svgText(label))
	}
	fmt.Fprintf(out, `<g><title>%s</title><path d="%sL%d %d" fill="none" stroke="%s" %s marker-end="url(#%s)"/>%s</g>`+"\n",
		svgText(title), path, end.x, end.y, svgColour(a.verdict), line, a.verdict, text)
}

// towards is where a round corner at c begins, on the way to o.
func (c corner) towards(o corner) corner {
	step := func(d int) int { return max(-svgRound, min(d/2, svgRound)) }
	return corner{c.x + step(o.x-c.x), c.y + step(o.y-c.y)}
}

// textWidth is about the width of a text in the 12 pixel monospace font.
func textWidth(text string) int { return len([]rune(text))*73/10 + 1 }

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
	// The beginning of a pod's name and its end identify it.
	return string(runes[:svgMaxLabel/2-1]) + "…" + string(runes[len(runes)-svgMaxLabel/2:])
}

// svgText escapes text for XML, cleaned as for a terminal.
func svgText(text string) string {
	var out bytes.Buffer
	// Writing to a buffer cannot fail.
	_ = xml.EscapeText(&out, []byte(terminal.Clean(text)))
	return out.String()
}
