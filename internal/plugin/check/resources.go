package check

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/limits"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// checkLimits compares what gateways need with what the pods' limits leave, by the gateways' own figures
// where they run.
func checkLimits(_ context.Context, f *facts, pods []corev1.Pod) []Item {
	told := map[string]*api.Memory{}
	items, _ := f.answered()
	for _, item := range items {
		told[item.Namespace+"/"+item.Pod] = item.Status.Memory
	}
	var list []Item
	limited, least, where := 0, (*api.Memory)(nil), ""
	for i := range pods {
		pod := &pods[i]
		of, memory := limits.Of(pod), told[pod.Namespace+"/"+pod.Name]
		if of != (limits.Limits{}) {
			limited++
		}
		if memory != nil && memory.Limit > 0 && (least == nil || memory.Left < least.Left) {
			least, where = memory, nameOf(pod)
		}
		text := limits.Tight(memory)
		if memory == nil || memory.Limit == 0 {
			text = of.Small()
		}
		if text != "" {
			list = append(list, Item{Result: Warning, Objects: []string{nameOf(pod)}, Detail: text, Hint: "raise the limits, which the pod's gateway shares"})
		}
	}
	summary := fmt.Sprintf("%d of %s with limits", limited, terminal.Plural(len(pods), "pod"))
	if least != nil {
		summary += fmt.Sprintf("; where memory is tightest, in %s, %s of %s are left, enough for about %d more connections",
			where, terminal.Bytes(uint64(least.Left)), terminal.Bytes(uint64(least.Limit)), least.Room)
	}
	return orOK(list, "%s", summary)
}
