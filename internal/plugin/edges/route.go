package edges

import (
	"cmp"
	"slices"
)

// wire is an upright part of a link in a gap. Level parts lead from it to the left and
// to the right.
type wire struct {
	link        int
	left, right []int // heights of the level parts
	top, bottom int
	track       int
}

func newWire(link int, left, right []int) wire {
	ends := slices.Concat(left, right)
	return wire{link: link, left: left, right: right, top: slices.Min(ends), bottom: slices.Max(ends)}
}

// mustFollow reports whether w cannot be left of o, because level parts of both would
// run into each other. Heights are equal or svgGrid apart.
func (w *wire) mustFollow(o *wire) bool {
	if w.link == o.link {
		return w.left[0] == o.right[0]
	}
	return slices.ContainsFunc(w.right, func(y int) bool { return slices.Contains(o.left, y) })
}

// crossings counts how often w and o cross if w is left of o.
func (w *wire) crossings(o *wire) int {
	count := 0
	for _, y := range o.left {
		if w.top < y && y < w.bottom {
			count++
		}
	}
	for _, y := range w.right {
		if o.top < y && y < o.bottom {
			count++
		}
	}
	return count
}

// arrange gives the wires of a gap their tracks, counted from the left, so that level
// parts never meet and wires cross each other seldom. Where wires wait for each other
// in a circle, one is split in two. A circle is never waited for by others, as one column
// has each height once. taken are the heights that no wire is split at.
func arrange(wires []wire, taken []int) []wire {
	waits, costs := make([]int, len(wires)), make([]int, len(wires))
	count := func(i, o, times int) {
		if i == o {
			return
		}
		costs[i] += times * (wires[i].crossings(&wires[o]) - wires[o].crossings(&wires[i]))
		if wires[i].mustFollow(&wires[o]) {
			waits[i] += times
		}
	}
	rest := make([]int, len(wires))
	for i := range wires {
		rest[i] = i
		for o := range wires {
			count(i, o, 1)
		}
	}
	var done []wire
	for len(rest) > 0 {
		best := slices.MinFunc(rest, func(a, b int) int {
			return cmp.Or(boolCompare(waits[a] > 0, waits[b] > 0), cmp.Compare(costs[a], costs[b]), cmp.Compare(a, b))
		})
		w := wires[best]
		if waits[best] > 0 {
			y := free(taken, (w.left[0]+w.right[0])/2)
			wires[best] = newWire(w.link, w.left, []int{y})
			return arrange(append(wires, newWire(w.link, []int{y}, w.right)), append(taken, y))
		}
		for i := range done {
			if o := &done[i]; w.mustFollow(o) || w.top < o.bottom+svgTrack && o.top < w.bottom+svgTrack {
				w.track = max(w.track, o.track+1)
			}
		}
		done = append(done, w)
		rest = slices.DeleteFunc(rest, func(i int) bool { return i == best })
		for _, i := range rest {
			count(i, best, -1)
		}
	}
	return done
}

// free returns the height nearest to y that is clear of those that are taken.
func free(taken []int, y int) int {
	for d := 0; ; d++ {
		for _, z := range []int{y - d, y + d} {
			if !slices.ContainsFunc(taken, func(t int) bool { return z-svgClear < t && t < z+svgClear }) {
				return z
			}
		}
	}
}

// placement says where everything is in a drawing, in pixels.
type placement struct {
	width, height int
	boxes         []box // by node
	bands         []band
	routes        [][]corner // by arc, from its source to its destination
}

type box struct{ x, y, width, height int }

// band is the place of a namespace.
type band struct {
	name      string
	y, height int
}

// corner is where an arc begins, turns or ends.
type corner struct{ x, y int }

// place lays out g.
func place(g *graph) placement {
	l := newLayout(g)
	l.reduceCrossings()
	l.attach()
	l.align()
	wires := l.wires()
	p := placement{bands: l.bands, boxes: make([]box, len(g.nodes)), routes: make([][]corner, len(g.arcs))}
	// Of each column the left side, of each gap the left side and the first track.
	columns, gaps, tracks := make([]int, len(l.columns)), make([]int, len(l.columns)), make([]int, len(l.columns))
	widths, room := l.widths(), l.labelRoom()
	x := svgMargin + svgBandPad
	for c := range l.columns {
		columns[c], gaps[c], tracks[c] = x, x+widths[c], x+widths[c]+room[c][left]
		x = tracks[c] + room[c][right]
		for _, w := range wires[c] {
			x = max(x, tracks[c]+w.track*svgTrack+room[c][right])
		}
	}
	p.width = max(x+svgBandPad+svgMargin, svgMinWidth)
	p.height = svgMargin + svgLegend
	for _, b := range p.bands {
		p.height = b.y + b.height + svgBandGap + svgLegend
	}
	for n := range p.boxes {
		at := &l.items[n]
		height := at.height - svgBoxGap
		p.boxes[n] = box{x: columns[at.column], y: at.y - height/2, width: widths[at.column], height: height}
	}
	for i, k := range l.links {
		way := append(p.routes[k.arc], corner{gaps[k.gap], k.y[0]})
		for _, w := range wires[k.gap] {
			if w.link == i {
				x, ys := tracks[k.gap]+w.track*svgTrack, slices.Concat(w.left, w.right)
				way = append(way, corner{x, ys[0]}, corner{x, ys[1]})
			}
		}
		end := gaps[k.gap]
		if !l.within(&k) {
			end = columns[k.gap+1]
		}
		p.routes[k.arc] = append(way, corner{end, k.y[1]})
	}
	for i, a := range g.arcs {
		if l.items[a.from].column > l.items[a.to].column {
			slices.Reverse(p.routes[i])
		}
	}
	return p
}

// wires returns what is upright in each gap.
func (l *layout) wires() [][]wire {
	wires, taken := make([][]wire, len(l.columns)), make([][]int, len(l.columns))
	for i, k := range l.links {
		taken[k.gap] = append(taken[k.gap], k.y[:]...)
		switch w := &wires[k.gap]; {
		case l.within(&k):
			*w = append(*w, newWire(i, k.y[:], nil))
		case k.y[0] != k.y[1]:
			*w = append(*w, newWire(i, k.y[:1], k.y[1:]))
		}
	}
	for c := range wires {
		wires[c] = arrange(wires[c], taken[c])
	}
	return wires
}

// widths are those of the columns. The first one has room for the names of bands, too.
func (l *layout) widths() []int {
	widths := make([]int, len(l.columns))
	for n := range l.g.nodes {
		c := l.items[n].column
		widths[c] = max(widths[c], textWidth(shorten(nodeLabel(&l.g.nodes[n])))+24)
	}
	for _, b := range l.bands {
		widths[0] = max(widths[0], textWidth(b.name)+24)
	}
	return widths
}

// labelRoom is, by gap, what the labels of arcs that end at its left and right need.
func (l *layout) labelRoom() [][2]int {
	room := slices.Repeat([][2]int{{svgStub, svgStub}}, len(l.columns))
	room[len(room)-1] = [2]int{}
	for _, a := range l.g.arcs {
		gap, side := l.items[a.to].column, left
		if l.items[a.from].column < gap {
			gap, side = gap-1, right
		}
		need := svgStub
		if label := a.shortLabel(); label != "" {
			need = 2*svgStub + textWidth(label)
		}
		room[gap][side] = max(room[gap][side], need)
	}
	return room
}
