package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/version"
)

// state returns the gateways, or the finding of a check that needs them.
func (f *facts) state() (*status.List, []Item) {
	states, err := f.states()
	switch {
	case err != nil:
		return nil, []Item{failed(Error, err)}
	case len(states.Items) == 0:
		return nil, skipped("there are no gateways")
	}
	return states, nil
}

// answered returns the gateways that told their status, or the finding of a check that
// needs them.
func (f *facts) answered() (items []*status.Item, why []Item) {
	states, why := f.state()
	if why != nil {
		return nil, why
	}
	for n := range states.Items {
		if item := &states.Items[n]; item.Status != nil {
			items = append(items, item)
		}
	}
	if len(items) == 0 {
		return nil, skipped("no gateway has answered")
	}
	return items, nil
}

func object(i *status.Item) []string {
	return []string{fmt.Sprintf("pod/%s -n %s", i.Pod, i.Namespace)}
}

// checkGateways reports the problems that status finds.
func checkGateways(_ context.Context, _ *facts, states *status.List) []Item {
	var list []Item
	ready := 0
	modes := map[string]int{}
	for n := range states.Items {
		item := &states.Items[n]
		if item.State == status.Ready {
			ready++
			modes[string(item.Mode)]++
		}
		list = append(list, problems(item)...)
	}
	var words []string
	for mode, n := range modes {
		words = append(words, fmt.Sprintf("%d %s", n, mode))
	}
	slices.Sort(words)
	if len(words) == 0 {
		return orOK(list, "none is ready")
	}
	return orOK(list, "%d of %s ready: %s", ready, terminal.Plural(len(states.Items), "gateway"), strings.Join(words, ", "))
}

// problems are the findings about what is wrong with i.
func problems(i *status.Item) (list []Item) {
	for _, problem := range i.Problems {
		found := Item{Result: Warning, Objects: object(i), Detail: problem.Text, Hint: problem.Hint}
		switch problem.Severity {
		case status.Note:
			continue
		case status.Critical:
			found.Result = Error
		}
		if strings.HasPrefix(found.Hint, "kubectl ") {
			found.Hint, found.Command = "", found.Hint
		}
		list = append(list, found)
	}
	return list
}

// checkCoverage compares what gateways capture with the cluster, as status does.
func checkCoverage(_ context.Context, f *facts, items []*status.Item) []Item {
	items = slices.DeleteFunc(items, func(i *status.Item) bool { return i.Status.Capture.Fingerprint == "" })
	if len(items) == 0 {
		return skipped("no gateway tells what it captures")
	}
	cluster, err := f.survey()
	if err != nil {
		return skipped("the cluster could not be surveyed: %v", err)
	}
	pods, _ := f.found()
	var list []Item
	for _, item := range items {
		at := slices.IndexFunc(pods, func(pod corev1.Pod) bool { return pod.Namespace == item.Namespace && pod.Name == item.Pod })
		compared := *item
		compared.Problems = nil
		compared.Compare(cluster, &pods[at])
		list = append(list, problems(&compared)...)
	}
	return orOK(list, "%s", terminal.Plural(len(items), "gateway"))
}

// checkTrust finds gateways that trust a root which nobody is given any more, such as that of an
// authority that was retired while they were being enabled.
func checkTrust(_ context.Context, f *facts, items []*status.Item) []Item {
	a, why := f.present()
	if why != nil {
		return why
	}
	var list []Item
	for _, item := range items {
		for _, root := range item.Status.Cert.Authorities {
			if slices.Contains(a.Roots(), root) {
				continue
			}
			list = append(list, Item{Result: Warning, Objects: object(item), Detail: fmt.Sprintf("the gateway trusts authority %.16s, which no gateway is given now", root),
				Command: fmt.Sprintf("kubectl gateway rotate pod/%s -n %s", item.Pod, item.Namespace)})
		}
	}
	return orOK(list, "%s", terminal.Plural(len(items), "gateway"))
}

// checkStorage finds pods whose limit of ephemeral storage is too small for the log of a gateway.
func checkStorage(_ context.Context, f *facts) []Item {
	pods, err := f.found()
	if len(pods) == 0 && err == nil {
		return skipped("there are no pods")
	}
	var list []Item
	for i := range pods {
		pod := &pods[i]
		total := installed.LogTotal(pod)
		if gateway, ok := installed.Current(pod); ok {
			config, err := installed.ConfigOf(pod, gateway.Name)
			if err != nil {
				continue
			}
			total = config.LogTotal
		}
		if total > 0 {
			list = append(list, Item{Result: Warning, Objects: []string{nameOf(pod)}, Detail: installed.LogRemark(pod, total),
				Hint: "--log=refused logs less; a higher limit of ephemeral-storage has room for more"})
		}
	}
	return orOK(list, "%s", terminal.Plural(len(pods), "pod"))
}

func checkSkew(_ context.Context, f *facts, items []*status.Item) []Item {
	var list []Item
	for _, item := range items {
		// An unidentified build may be the same one.
		if slices.Contains([]string{f.Version, version.Development}, item.Status.Version) || f.Version == version.Development {
			continue
		}
		list = append(list, Item{Result: Warning, Objects: object(item),
			Detail:  fmt.Sprintf("the gateway is %s, and the plugin is %s", item.Status.Version, f.Version),
			Command: fmt.Sprintf("kubectl gateway upgrade pod/%s -n %s", item.Pod, item.Namespace)})
	}
	return orOK(list, "%s", f.Version)
}

func checkPlaintext(_ context.Context, _ *facts, items []*status.Item) []Item {
	var list []Item
	var encrypted uint64
	for _, item := range items {
		out, in := item.Status.Traffic.Outbound, item.Status.Traffic.Inbound
		encrypted += out.Encrypted + in.Encrypted
		allowed := item.Status.Capture.PlaintextAllowed
		if out.Plaintext+in.Plaintext == 0 {
			continue
		}
		list = append(list, Item{Result: Warning, Objects: object(item),
			Detail: fmt.Sprintf("%d connections out and %d in went in plaintext (%d of a source that may)", out.Plaintext, in.Plaintext, allowed),
			Hint:   "see which, then enable the pods at the other end", Command: fmt.Sprintf("kubectl gateway tail pod/%s -n %s", item.Pod, item.Namespace)})
	}
	return orOK(list, "%d connections were encrypted", encrypted)
}
