package edges

import (
	"cmp"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// layout is a layered drawing in the making. Nodes stand in columns, and arcs run through
// the gaps between these. An arc has a lane in each column that it passes.
type layout struct {
	g       *graph
	items   []item // the nodes, then the lanes
	links   []link // by arc, and then from left to right
	columns []column
	bands   []band
}

// column is the items of each band, from the top.
type column [][]int

// item is a node or a lane: what needs room in a column.
type item struct {
	column, band int
	height       int // with margins
	y            int // of the middle
	position     int // in the column, from the top
	ends         [2][]end
}

// link is the part of an arc in one gap. It leads from the column left of the gap to the
// one right of it, or back to the same column.
type link struct {
	arc, gap int
	items    [2]int
	y        [2]int
}

// end is one of the two ends of a link.
type end struct{ link, which int }

// The sides of a column.
const (
	left = iota
	right
)

func newLayout(g *graph) *layout {
	l := &layout{g: g, items: make([]item, len(g.nodes))}
	layer := layers(g)
	names, members := g.groups()
	for range slices.Max(append(layer, 0)) + 1 {
		l.columns = append(l.columns, make(column, len(names)))
	}
	for b, name := range names {
		l.bands = append(l.bands, band{name: shorten(terminal.Clean(cmp.Or(name, "outside of namespaces")))})
		for _, n := range members[name] {
			l.add(n, item{column: layer[n], band: b})
		}
	}
	for i, a := range g.arcs {
		from, to := a.from, a.to
		if layer[from] > layer[to] {
			from, to = to, from
		}
		for c := layer[from] + 1; c < layer[to]; c++ {
			lane := len(l.items)
			l.items = append(l.items, item{})
			l.add(lane, item{column: c, band: l.items[to].band})
			l.connect(i, from, lane)
			from = lane
		}
		l.connect(i, from, to)
	}
	for _, c := range l.columns {
		l.sort(c, nil)
	}
	return l
}

func (l *layout) add(n int, it item) {
	l.items[n] = it
	c := l.columns[it.column]
	c[it.band] = append(c[it.band], n)
}

// connect adds the link of an arc. Those within a column get their ends in attach: their
// items have no neighbours to be ordered by.
func (l *layout) connect(arc, from, to int) {
	k := link{arc: arc, gap: l.items[from].column, items: [2]int{from, to}}
	if i := len(l.links); !l.within(&k) {
		l.items[from].ends[right] = append(l.items[from].ends[right], end{i, 0})
		l.items[to].ends[left] = append(l.items[to].ends[left], end{i, 1})
	}
	l.links = append(l.links, k)
}

// within reports whether a link leads back to its column.
func (l *layout) within(k *link) bool {
	return l.items[k.items[0]].column == l.items[k.items[1]].column
}

// across is the item at the other end of a link.
func (l *layout) across(e end) *item { return &l.items[l.links[e.link].items[1-e.which]] }

// sort orders the items of each band in a column by key.
func (l *layout) sort(c column, key map[int]float64) {
	position := 0
	for _, run := range c {
		slices.SortStableFunc(run, func(a, b int) int { return cmp.Compare(key[a], key[b]) })
		for _, n := range run {
			l.items[n].position = position
			position++
		}
	}
}

// sweeps is how often columns are adjusted to their neighbours. More change little.
const sweeps = 8

// sweep calls visit with all columns from left to right and back, and with the side on
// which the column before lies.
func (l *layout) sweep(visit func(c column, side int)) {
	for _, c := range l.columns {
		visit(c, left)
	}
	for _, c := range slices.Backward(l.columns) {
		visit(c, right)
	}
}

// reduceCrossings orders items by the mean position of their neighbours, and keeps the
// best order that it finds.
func (l *layout) reduceCrossings() {
	best := make(map[int]float64) // the positions of items
	fewest := -1
	for range sweeps {
		l.sweep(func(c column, side int) {
			mean := make(map[int]float64)
			for _, n := range slices.Concat(c...) {
				ends := l.items[n].ends[side]
				if len(ends) == 0 {
					mean[n] = float64(l.items[n].position)
				}
				for _, e := range ends {
					mean[n] += float64(l.across(e).position) / float64(len(ends))
				}
			}
			l.sort(c, mean)
		})
		if now := l.crossings(); fewest < 0 || now < fewest {
			fewest = now
			for n, it := range l.items {
				best[n] = float64(it.position)
			}
		}
	}
	for _, c := range l.columns {
		l.sort(c, best)
	}
}

// crossings counts the pairs of links that cross.
func (l *layout) crossings() int {
	count := 0
	for i, a := range l.links {
		for _, b := range l.links[:i] {
			above := func(which int) int {
				return cmp.Compare(l.items[a.items[which]].position, l.items[b.items[which]].position)
			}
			if a.gap == b.gap && !l.within(&a) && !l.within(&b) && above(0)*above(1) < 0 {
				count++
			}
		}
	}
	return count
}

// attach orders the ends on each side of an item, so that its links do not cross each
// other, and gives items their heights.
func (l *layout) attach() {
	for i, k := range l.links {
		if l.within(&k) {
			for which, n := range k.items {
				l.items[n].ends[right] = append(l.items[n].ends[right], end{i, which})
			}
		}
	}
	for n := range l.items {
		at := &l.items[n]
		// turn is whether a link leads back to an item above, -1, or below, 1.
		turn := func(e end) int {
			switch other := l.across(e); {
			case other.column != at.column:
				return 0
			case other.position < at.position:
				return -1
			}
			return 1
		}
		for _, ends := range at.ends {
			slices.SortFunc(ends, func(a, b end) int {
				position, link := cmp.Compare(l.across(a).position, l.across(b).position), cmp.Compare(a.link, b.link)
				switch turn(a) { // the farther item is the outer one
				case -1:
					position = -position
				case 1:
					position, link = -position, -link
				}
				return cmp.Or(cmp.Compare(turn(a), turn(b)), position, link, cmp.Compare(a.which, b.which))
			})
		}
		at.height = svgPitch * max(1, len(at.ends[left]), len(at.ends[right]))
		if n < len(l.g.nodes) {
			at.height += svgBoxPad + svgBoxGap
		}
	}
}

// offset is how far below the middle of its item the k-th of n ends is.
func offset(k, n int) int { return (2*k - n + 1) * svgPitch / 2 }

// align gives bands, items and links their heights in the drawing, and makes links level
// where it can.
func (l *layout) align() {
	y := svgMargin
	for b := range l.bands {
		tallest := 0
		for _, c := range l.columns {
			height := 0
			for _, n := range c[b] {
				height += l.items[n].height
			}
			tallest = max(tallest, height)
		}
		l.bands[b].y, l.bands[b].height = y, svgBandTitle+tallest+svgBandPad
		y += l.bands[b].height + svgBandGap
	}
	for range sweeps {
		l.sweep(func(c column, side int) {
			for b, run := range c {
				l.settle(run, &l.bands[b], side)
			}
		})
	}
	for _, it := range l.items {
		for _, ends := range it.ends {
			for k, e := range ends {
				l.links[e.link].y[e.which] = it.y + offset(k, len(ends))
			}
		}
	}
}

// settle moves the items of one band in a column to where their links on one side are
// level, as far as their order and the height of the band allow. Items that are in each
// other's way share the difference.
func (l *layout) settle(run []int, in *band, side int) {
	type pool struct{ sum, items int } // of the first item's best top
	var pools []pool
	used := 0
	for _, n := range run {
		at := &l.items[n]
		pools = append(pools, pool{l.level(at, side) - at.height/2 - used, 1})
		used += at.height
		for i := len(pools) - 1; i > 0 && pools[i-1].sum*pools[i].items >= pools[i].sum*pools[i-1].items; i-- {
			pools[i-1] = pool{pools[i-1].sum + pools[i].sum, pools[i-1].items + pools[i].items}
			pools = pools[:i]
		}
	}
	y := 0
	for _, p := range pools {
		top := max(in.y+svgBandTitle, min(p.sum/p.items/svgGrid*svgGrid, in.y+in.height-svgBandPad-used))
		for _, n := range run[:p.items] {
			l.items[n].y = top + y + l.items[n].height/2
			y += l.items[n].height
		}
		run = run[p.items:]
	}
}

// level is where an item has as many links on one side that lead down as lead up.
func (l *layout) level(at *item, side int) int {
	var ys []int
	for k, e := range at.ends[side] {
		if other := l.across(e); other.column != at.column {
			there := other.ends[right-side]
			o := slices.Index(there, end{e.link, 1 - e.which})
			ys = append(ys, other.y+offset(o, len(there))-offset(k, len(at.ends[side])))
		}
	}
	if len(ys) == 0 {
		return at.y
	}
	slices.Sort(ys)
	return ys[(len(ys)-1)/2]
}

// layers returns the column of each node. Arcs lead to the right, but for some among nodes
// that reach each other: those that do not lead away from where the first of them is
// reached.
func layers(g *graph) []int {
	next := make([][]int, len(g.nodes))
	reached := make([]bool, len(g.nodes))
	for _, a := range g.arcs {
		if a.from != a.to {
			next[a.from] = append(next[a.from], a.to)
			reached[a.to] = true
		}
	}
	var order []int
	for n := range g.nodes {
		order = append(order, n)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(boolCompare(reached[a], reached[b]), cmp.Compare(len(next[b]), len(next[a])))
	})
	steps := make([][]int, len(g.nodes)) // from one node to another
	depth := slices.Repeat([]int{-1}, len(g.nodes))
	for _, n := range order {
		steps[n] = distances(next, n)
		if reached[n] && depth[n] >= 0 {
			continue
		}
		for m, d := range steps[n] {
			if d >= 0 && (depth[m] < 0 || d < depth[m]) {
				depth[m] = d
			}
		}
	}
	layer := make([]int, len(g.nodes))
	for moved := true; moved; {
		moved = false
		for _, a := range g.arcs {
			away := steps[a.to][a.from] < 0 || depth[a.to] > depth[a.from]
			if away && layer[a.to] <= layer[a.from] {
				layer[a.to] = layer[a.from] + 1
				moved = true
			}
		}
	}
	// What nobody connects to stands right before the first that it connects to.
	for n := range g.nodes {
		if !reached[n] && next[n] != nil {
			layer[n] = slices.Min(lists.Map(next[n], func(m int) int { return layer[m] })) - 1
		}
	}
	return layer
}

// distances returns how many arcs lead from one node to each other, -1 where none do.
func distances(next [][]int, from int) []int {
	steps := slices.Repeat([]int{-1}, len(next))
	steps[from] = 0
	for queue := []int{from}; len(queue) > 0; queue = queue[1:] {
		for _, m := range next[queue[0]] {
			if steps[m] < 0 {
				steps[m] = steps[queue[0]] + 1
				queue = append(queue, m)
			}
		}
	}
	return steps
}
