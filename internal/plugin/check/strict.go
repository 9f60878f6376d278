package check

import (
	"context"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// checkStrict names the callers without a gateway that strict mode affects.
func checkStrict(_ context.Context, f *facts) []finding {
	pods, _ := f.found()
	if len(pods) == 0 {
		return skipped("there are no pods")
	}
	cluster, err := f.survey()
	if err != nil {
		return skipped("the cluster could not be surveyed")
	}
	// What gateways were told by name is what they say themselves.
	named := map[string]api.Coverage{}
	if states, err := f.states(); err == nil {
		for _, item := range states.Items {
			if item.Status != nil {
				named[item.Namespace+"/"+item.Pod] = item.Status.Capture.Named
			}
		}
	}
	var list []finding
	for i := range pods {
		pod := &pods[i]
		if cluster.Refusal(pod) != nil {
			continue
		}
		for _, remark := range cluster.Strict(pod, named[pod.Namespace+"/"+pod.Name]) {
			list = append(list, finding{result: Warning, objects: []string{nameOf(pod)}, detail: remark.Text, hint: remark.Hint})
		}
	}
	for _, line := range cluster.StrictUnknown() {
		list = append(list, finding{result: Skipped, detail: line})
	}
	if len(list) > 0 {
		return list
	}
	return ok("%s", plural(len(pods), "pod"))
}
