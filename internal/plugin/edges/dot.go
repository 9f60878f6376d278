package edges

import (
	"fmt"
	"io"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// DOT writes l for Graphviz: encrypted edges green, plaintext ones red and thicker,
// refused ones dashed.
func (l *List) DOT(w io.Writer) error {
	g := l.graph()
	var out strings.Builder
	out.WriteString("digraph gateways {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n" +
		"  edge [fontname=\"sans-serif\", fontsize=10];\n")
	names, members := g.groups()
	for i, name := range names {
		indent := "  "
		if name != "" {
			fmt.Fprintf(&out, "  subgraph cluster_%d {\n    label=%s;\n    style=rounded;\n", i, dotString(terminal.Clean(name)))
			indent = "    "
		}
		for _, n := range members[name] {
			fmt.Fprintf(&out, "%sn%d [label=%s%s];\n", indent, n, dotString(nodeLabel(&g.nodes[n])), dotShape(&g.nodes[n]))
		}
		if name != "" {
			out.WriteString("  }\n")
		}
	}
	for i := range g.arcs {
		a := &g.arcs[i]
		fmt.Fprintf(&out, "  n%d -> n%d [%s, label=%s, tooltip=%s];\n", a.from, a.to, dotLine(a), dotString(a.label()), dotString(a.title(&g)))
	}
	out.WriteString("}\n")
	_, err := io.WriteString(w, out.String())
	return err
}

func dotShape(e *Endpoint) string {
	switch e.Kind {
	case "svc":
		return ", shape=hexagon"
	case "":
		return ", shape=plaintext"
	}
	return ""
}

func dotLine(a *arc) string {
	line := `color="red", penwidth=2`
	switch a.verdict {
	case Encrypted:
		line = `color="green"`
	case Refused:
		line = `color="gray40", style=dashed`
	}
	if a.backend {
		line += ", arrowhead=open, penwidth=0.5"
	}
	return line
}

// dotString returns text as a quoted string of the DOT language, in which the
// backslash is kept for escapes of labels: doubled, it stands for itself.
func dotString(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
