package edges

import (
	"encoding/xml"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// rectangle is a place in a picture, between two corners.
type rectangle struct{ left, top, right, bottom float64 }

// grown returns r with a margin on all sides.
func (r rectangle) grown(by float64) rectangle {
	return rectangle{r.left - by, r.top - by, r.right + by, r.bottom + by}
}

func (r rectangle) overlaps(o rectangle) bool {
	return r.left < o.right && o.left < r.right && r.top < o.bottom && o.top < r.bottom
}

func (r rectangle) encloses(o rectangle) bool {
	return r.left <= o.left && r.top <= o.top && r.right >= o.right && r.bottom >= o.bottom
}

type point struct{ x, y float64 }

func (r rectangle) contains(p point) bool {
	return p.x > r.left && p.x < r.right && p.y > r.top && p.y < r.bottom
}

// drawnText is a text with the place that it covers.
type drawnText struct {
	text string
	at   rectangle
}

// drawnArc is what a picture shows of an arc: its title, points at most a pixel apart, and labels.
type drawnArc struct {
	title, marker string
	points        []point
	labels        []drawnText
}

type drawing struct {
	view    rectangle
	boxes   map[string]rectangle
	names   map[string]drawnText // in the boxes
	arcs    []drawnArc
	texts   []drawnText // of the picture as a whole
	markers []string
}

// svgElement is an element of a picture that may have others in it.
type svgElement struct {
	XMLName  xml.Name
	Text     string       `xml:",chardata"`
	ViewBox  string       `xml:"viewBox,attr"`
	ID       string       `xml:"id,attr"`
	X        float64      `xml:"x,attr"`
	Y        float64      `xml:"y,attr"`
	Width    float64      `xml:"width,attr"`
	Height   float64      `xml:"height,attr"`
	Anchor   string       `xml:"text-anchor,attr"`
	D        string       `xml:"d,attr"`
	Marker   string       `xml:"marker-end,attr"`
	Elements []svgElement `xml:",any"`
}

func readDrawing(t *testing.T, svg string) *drawing {
	t.Helper()
	var root svgElement
	must.Do(t, xml.Unmarshal([]byte(svg), &root))
	d := &drawing{boxes: make(map[string]rectangle), names: make(map[string]drawnText)}
	fmt.Sscan(root.ViewBox, &d.view.left, &d.view.top, &d.view.right, &d.view.bottom)
	for _, e := range root.Elements {
		switch e.XMLName.Local {
		case "defs":
			for _, m := range e.Elements {
				d.markers = append(d.markers, m.ID)
			}
		case "text":
			d.texts = append(d.texts, e.place())
		case "g":
			d.readGroup(e.Elements)
		}
	}
	return d
}

// readGroup reads a box or an arc: its title comes first.
func (d *drawing) readGroup(elements []svgElement) {
	arc := drawnArc{title: elements[0].Text}
	name, _, _ := strings.Cut(arc.title, ", ")
	for _, e := range elements[1:] {
		switch e.XMLName.Local {
		case "rect":
			d.boxes[name] = rectangle{e.X, e.Y, e.X + e.Width, e.Y + e.Height}
		case "path":
			arc.points, arc.marker = pointsOf(e.D), strings.TrimSuffix(strings.TrimPrefix(e.Marker, "url(#"), ")")
		case "text":
			arc.labels = append(arc.labels, e.place())
		}
	}
	if arc.points == nil {
		d.names[name] = arc.labels[0]
		return
	}
	d.arcs = append(d.arcs, arc)
}

// place is where a text of the 12 pixel font is.
func (e *svgElement) place() drawnText {
	width := 7.2 * float64(len([]rune(e.Text)))
	left := e.X
	switch e.Anchor {
	case "middle":
		left -= width / 2
	case "end":
		left -= width
	}
	return drawnText{e.Text, rectangle{left, e.Y - 9, left + width, e.Y + 2}}
}

var pathCommand = regexp.MustCompile(`[MLQ][^MLQ]*`)

// pointsOf follows a path of the commands M, L and Q. It passes the gap for a label, too.
func pointsOf(d string) []point {
	var points []point
	for _, command := range pathCommand.FindAllString(d, -1) {
		controls := slices.Clone(points[max(0, len(points)-1):])
		for pair := range slices.Chunk(strings.Fields(command[1:]), 2) {
			var p point
			fmt.Sscan(pair[0], &p.x)
			fmt.Sscan(pair[1], &p.y)
			controls = append(controls, p)
		}
		length := 0.0
		for i, c := range controls[1:] {
			length += distance(controls[i], c)
		}
		for steps, i := int(length)+1, 1; i <= steps; i++ {
			points = append(points, bezier(controls, float64(i)/float64(steps)))
		}
	}
	return points
}

// bezier returns the point of a curve at time t.
func bezier(controls []point, t float64) point {
	for len(controls) > 1 {
		var next []point
		for i, c := range controls[1:] {
			next = append(next, point{controls[i].x*(1-t) + c.x*t, controls[i].y*(1-t) + c.y*t})
		}
		controls = next
	}
	return controls[0]
}

func distance(a, b point) float64 { return math.Hypot(a.x-b.x, a.y-b.y) }

// direction is where an arc leads to at its point i, as an angle below π.
func (a *drawnArc) direction(i int) float64 {
	from, to := a.points[max(0, i-2)], a.points[min(len(a.points)-1, i+2)]
	return math.Mod(math.Atan2(to.y-from.y, to.x-from.x)+2*math.Pi, math.Pi)
}

// faults are what keeps an eye from following the arcs of a drawing. Also returned is how many
// pairs of arcs cross.
func (d *drawing) faults() (faults []string, crossings int) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for i := range d.arcs {
		a := &d.arcs[i]
		names, _, _ := strings.Cut(a.title, ", ")
		from, to, _ := strings.Cut(names, " to ")
		to, ports, labelled := strings.Cut(to, " ")
		if labelled != (len(a.labels) == 1) {
			fault("%s: the labels are %v for the ports %q", a.title, a.labels, ports)
		}
		start, end := a.points[0], a.points[len(a.points)-1]
		for name, p := range map[string]point{from: start, to: end} {
			if !d.boxes[name].grown(1).contains(p) || d.boxes[name].grown(-1).contains(p) {
				fault("%s: the end at %v is not at the border of %s", a.title, p, name)
			}
		}
		if !slices.Contains(d.markers, a.marker) {
			fault("%s: there is no arrowhead %q", a.title, a.marker)
		}
		for _, name := range slices.Sorted(maps.Keys(d.boxes)) {
			margin := 3.0
			if name == from || name == to {
				margin = -1
			}
			if inside := d.boxes[name].grown(margin); slices.ContainsFunc(a.points, inside.contains) {
				fault("%s: it leads through %s", a.title, name)
			}
		}
		if slices.ContainsFunc(a.points, func(p point) bool { return !d.view.contains(p) }) {
			fault("%s: it leaves the picture", a.title)
		}
		for _, label := range a.labels {
			if !slices.ContainsFunc(a.points, label.at.contains) {
				fault("%s: the label is not on it", a.title)
			}
		}
	}
	d.covered(fault)
	return faults, d.together(fault)
}

// together finds arcs that run beside each other too closely to be told apart, or cross at a
// narrow angle. It counts those that cross.
func (d *drawing) together(fault func(string, ...any)) int {
	type place struct{ arc, point int }
	cells := make(map[[2]int][]place)
	cell := func(p point) [2]int { return [2]int{int(p.x) / 5, int(p.y) / 5} }
	for i := range d.arcs {
		for k, p := range d.arcs[i].points {
			cells[cell(p)] = append(cells[cell(p)], place{i, k})
		}
	}
	told, crossed := make(map[[2]int]bool), make(map[[2]int]bool)
	for i := range d.arcs {
		a := &d.arcs[i]
		for k, p := range a.points {
			c := cell(p)
			for n := range 9 {
				for _, other := range cells[[2]int{c[0] + n/3 - 1, c[1] + n%3 - 1}] {
					b := &d.arcs[other.arc]
					pair := [2]int{i, other.arc}
					if other.arc <= i || told[pair] || distance(p, b.points[other.point]) > 4 {
						continue
					}
					angle := math.Abs(a.direction(k) - b.direction(other.point))
					if crossed[pair] = true; min(angle, math.Pi-angle) < math.Pi/6 {
						told[pair] = true
						fault("%s: it runs along %s at %.0f", a.title, b.title, p)
					}
				}
			}
		}
	}
	return len(crossed)
}

// covered finds labels that something else covers, or that leave the picture or their box.
func (d *drawing) covered(fault func(string, ...any)) {
	for name, box := range d.boxes {
		if label := d.names[name]; !box.encloses(label.at) {
			fault("the label %s leaves its box", label.text)
		}
	}
	type owned struct {
		drawnText
		arc int
	}
	var labels []owned
	for _, text := range d.texts {
		labels = append(labels, owned{text, -1})
	}
	for i := range d.arcs {
		for _, text := range d.arcs[i].labels {
			labels = append(labels, owned{text, i})
		}
	}
	for n, label := range labels {
		if !d.view.encloses(label.at) {
			fault("the label %s leaves the picture", label.text)
		}
		for name, box := range d.boxes {
			if label.at.overlaps(box) {
				fault("the label %s lies on %s", label.text, name)
			}
		}
		for _, other := range labels[:n] {
			if label.at.overlaps(other.at) {
				fault("the labels %s and %s overlap", label.text, other.text)
			}
		}
		for i := range d.arcs {
			if i != label.arc && slices.ContainsFunc(d.arcs[i].points, label.at.contains) {
				fault("%s: it leads through the label %s", d.arcs[i].title, label.text)
			}
		}
	}
}

// TestDrawings: the eye can follow each arc of graphs of all forms.
func TestDrawings(t *testing.T) {
	// Some need no crossings, or few.
	most := map[string]int{"back": 0, "chords": 1, "circle": 0, "hub both": 0, "hub in": 0, "hub out": 0, "long names": 0, "loops": 0,
		"mesh": 4, "outside": 0, "pair": 0, "parallel": 0, "scrapes": 0}
	for name, l := range drawings() {
		t.Run(name, func(t *testing.T) {
			dot, svg := pictures(t, l)
			checkPictures(t, dot, svg)
			if dir := os.Getenv("PICTURES"); dir != "" { // for somebody who wants to look at them
				must.Do(t, os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".svg"), []byte(svg), 0o644))
			}
			if again, other := pictures(t, l); again != dot || other != svg {
				t.Error("the pictures of one list differ")
			}
			d := readDrawing(t, svg)
			g := l.graph()
			if len(d.arcs) != len(g.arcs) || len(d.boxes) != len(g.nodes) {
				t.Errorf("there are %d arcs and %d boxes of %d and %d", len(d.arcs), len(d.boxes), len(g.arcs), len(g.nodes))
			}
			faults, crossings := d.faults()
			if limit, ok := most[name]; ok && crossings > limit {
				t.Errorf("%d pairs of arcs cross, want %d at most", crossings, limit)
			}
			for i, fault := range faults {
				if i == 12 {
					t.Fatal("and more")
				}
				t.Error(fault)
			}
		})
	}
}
