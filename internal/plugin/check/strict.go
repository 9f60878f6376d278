package check

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// checkStrict names the callers without a gateway that strict mode affects.
func checkStrict(_ context.Context, f *facts, pods []corev1.Pod) []Item {
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
	var list []Item
	for i := range pods {
		pod := &pods[i]
		if cluster.Refusal(pod) != nil {
			continue
		}
		list = append(list, lists.Map(cluster.Strict(pod, named[pod.Namespace+"/"+pod.Name]), func(remark survey.Remark) Item {
			return Item{Result: Warning, Objects: []string{nameOf(pod)}, Detail: remark.Text, Hint: remark.Hint}
		})...)
	}
	list = append(list, lists.Map(cluster.StrictUnknown(), func(line string) Item { return Item{Result: Skipped, Detail: line} })...)
	return orOK(list, "%s", terminal.Plural(len(pods), "pod"))
}
