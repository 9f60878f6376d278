package edges

import (
	"cmp"
	"slices"
)

// placement says where everything is in a drawing, in pixels.
type placement struct {
	width, height int
	boxes         []box
	bands         []band
	// leaves and enters are, by arc, how far from the middle of a node's side it
	// leaves it or enters it.
	leaves, enters []int
	// ways are, by arc, the lanes that it takes through the columns between its ends.
	ways [][]lane
}

// lane leads through a column, between its left and its right.
type lane struct{ left, right, y int }

type box struct{ x, y, width int }

// band is the place of a namespace.
type band struct {
	name      string
	y, height int
}

// place lays out g: columns by layers, bands by namespaces, and within those nodes in
// the order that makes arcs cross less.
func place(g *graph) placement {
	layer := layers(g)
	columns := 1
	for _, l := range layer {
		columns = max(columns, l+1)
	}
	widths := make([]int, columns)
	for i := range g.nodes {
		letters := len([]rune(shorten(nodeLabel(&g.nodes[i]))))
		widths[layer[i]] = max(widths[layer[i]], int(float64(letters)*svgLetter)+24)
	}
	left := make([]int, columns)
	x := svgMargin + svgBandPad
	for c, width := range widths {
		left[c] = x
		x += width + svgColumnGap
	}
	p := placement{width: x - svgColumnGap + svgBandPad + svgMargin, boxes: make([]box, len(g.nodes))}
	p.width = max(p.width, 420) // room for the legend
	p.ways = make([][]lane, len(g.arcs))

	names, members := g.groups()
	y := svgMargin
	height := make([]float64, len(g.nodes)) // where a node is, for those after it
	for _, name := range names {
		byColumn := make([][]int, columns)
		for _, n := range members[name] {
			byColumn[layer[n]] = append(byColumn[layer[n]], n)
		}
		tallest := 0
		lanes := make([]int, columns)
		for c, column := range byColumn {
			order(g, column, layer, height)
			for r, n := range column {
				p.boxes[n] = box{x: left[c], y: y + svgBandTitle + r*svgRow, width: widths[c]}
				height[n] = float64(p.boxes[n].y)
			}
			tallest = max(tallest, len(column)*svgRow)
		}
		// An arc past other nodes goes below those of the band where it ends.
		for i, a := range g.arcs {
			if g.nodes[a.to].Namespace != name {
				continue
			}
			for c := layer[a.from] + 1; c < layer[a.to]; c++ {
				at := y + svgBandTitle + len(byColumn[c])*svgRow + lanes[c]*svgLane
				p.ways[i] = append(p.ways[i], lane{left[c], left[c] + widths[c], at})
				lanes[c]++
				tallest = max(tallest, len(byColumn[c])*svgRow+lanes[c]*svgLane)
			}
		}
		title := name
		if name == "" {
			title = "outside of namespaces"
		}
		b := band{name: title, y: y, height: svgBandTitle + tallest}
		p.bands = append(p.bands, b)
		y += b.height + svgBandGap
	}
	p.height = max(y, svgMargin) + svgLegend
	p.spread(g)
	return p
}

// order sorts the nodes of a column by the mean height of those that lead there.
// Where nothing leads from the left, the order stays.
func order(g *graph, column, layer []int, height []float64) {
	mean := make(map[int]float64, len(column))
	for _, n := range column {
		sum, count := 0.0, 0
		for _, a := range g.arcs {
			if a.to == n && layer[a.from] < layer[n] && height[a.from] > 0 {
				sum += height[a.from]
				count++
			}
		}
		if count > 0 {
			mean[n] = sum / float64(count)
		}
	}
	slices.SortStableFunc(column, func(a, b int) int { return cmp.Or(cmp.Compare(mean[a], mean[b]), cmp.Compare(a, b)) })
}

// layers returns for each node the length of the longest way to it. Arcs that would
// close a circle do not count.
func layers(g *graph) []int {
	next := make([][]int, len(g.nodes))
	for _, a := range g.arcs {
		next[a.from] = append(next[a.from], a.to)
	}
	const (
		unseen = iota
		above
		done
	)
	state := make([]int, len(g.nodes))
	forward := make([][]int, len(g.nodes))
	var finished []int
	var visit func(n int)
	visit = func(n int) {
		state[n] = above
		for _, m := range next[n] {
			if state[m] == above {
				continue
			}
			forward[n] = append(forward[n], m)
			if state[m] == unseen {
				visit(m)
			}
		}
		state[n] = done
		finished = append(finished, n)
	}
	// Those that nobody connects to come first.
	reached := make([]bool, len(g.nodes))
	for _, a := range g.arcs {
		if a.from != a.to {
			reached[a.to] = true
		}
	}
	for _, first := range []bool{true, false} {
		for n := range g.nodes {
			if reached[n] != first && state[n] == unseen {
				visit(n)
			}
		}
	}
	layer := make([]int, len(g.nodes))
	for _, n := range slices.Backward(finished) {
		for _, m := range forward[n] {
			layer[m] = max(layer[m], layer[n]+1)
		}
	}
	return layer
}

// spread lets the arcs of a node leave and enter it beside each other.
func (p *placement) spread(g *graph) {
	p.leaves, p.enters = make([]int, len(g.arcs)), make([]int, len(g.arcs))
	out, in := make(map[int][]int), make(map[int][]int)
	for i, a := range g.arcs {
		out[a.from] = append(out[a.from], i)
		in[a.to] = append(in[a.to], i)
	}
	for n := range g.nodes {
		fan(p.leaves, out[n], func(i int) int { return p.boxes[g.arcs[i].to].y })
		fan(p.enters, in[n], func(i int) int { return p.boxes[g.arcs[i].from].y })
	}
}

// fan gives arcs places on the side of a node, sorted by the height of their other
// ends.
func fan(places, arcs []int, height func(int) int) {
	slices.SortStableFunc(arcs, func(a, b int) int { return cmp.Compare(height(a), height(b)) })
	const room = svgNodeHeight - 10
	for k, i := range arcs {
		if len(arcs) > 1 {
			step := min(6, room/(len(arcs)-1))
			places[i] = k*step - (len(arcs)-1)*step/2
		}
	}
}
