package check

import (
	"context"
	"maps"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
)

// checkAnnotations looks at what annotations say about gateways, also of pods that have none. Those that may not be
// read are left out.
func checkAnnotations(ctx context.Context, f *facts) []Item {
	reader := declared.NewReader(ctx, f.Client)
	all := map[string]declared.Value{}
	add := func(namespace, pod string, settings declared.Settings) {
		for _, v := range settings {
			where := v.From + " -n " + namespace
			switch v.From {
			case "pod":
				where = "pod/" + pod + " -n " + namespace
			case "namespace/" + namespace:
				where = v.From
			}
			all[where+" "+v.Name] = declared.Value{Setting: v.Setting, Text: v.Text, From: where, Err: v.Err}
		}
	}
	pods, _ := f.found()
	for i := range pods {
		settings, _ := reader.Read(&pods[i])
		add(pods[i].Namespace, pods[i].Name, settings)
	}
	spaces, _ := f.spaces()
	for name, space := range spaces {
		add(name, "", declared.Resolve(declared.Place{Name: "namespace/" + name, Annotations: space.Annotations}))
	}
	var list []Item
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if v := all[key]; v.Err != nil {
			list = append(list, Item{Result: Error, Objects: []string{v.From}, Detail: v.Err.Error(), Hint: api.Hint(v.Err)})
		}
	}
	switch {
	case len(list) > 0:
		return list
	case len(all) == 0:
		return ok("none says how gateways are to be")
	}
	return ok("%d say how gateways are to be", len(all))
}
