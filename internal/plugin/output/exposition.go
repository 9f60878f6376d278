package output

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Exposition returns metrics in Prometheus' text format 0.0.4. Characters that could
// harm a terminal are escaped.
func Exposition(metrics *api.Metrics) string {
	escapeHelp := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	var b strings.Builder
	for _, f := range metrics.Families {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f.Name, escapeHelp.Replace(terminal.Clean(f.Help)), f.Name, f.Type)
		for _, s := range f.Samples {
			labels := lists.Map(slices.Sorted(maps.Keys(s.Labels)), func(name string) string {
				return name + `="` + escapeLabel.Replace(terminal.Clean(s.Labels[name])) + `"`
			})
			b.WriteString(f.Name)
			if len(labels) > 0 {
				b.WriteString("{" + strings.Join(labels, ",") + "}")
			}
			b.WriteString(" " + strconv.FormatFloat(s.Value, 'g', -1, 64) + "\n")
		}
	}
	return b.String()
}
