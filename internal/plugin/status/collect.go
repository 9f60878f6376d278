package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

const (
	// DefaultParallel bounds how many gateways are asked at a time. Each costs
	// the API server and a kubelet one stream.
	DefaultParallel = 32
	// DefaultTimeout bounds how long one gateway may take to answer.
	DefaultTimeout = 10 * time.Second
)

// Collector asks the gateways of pods.
type Collector struct {
	Gateways *remote.Client
	// Timeout is DefaultTimeout if zero.
	Timeout time.Duration
	// Explain returns the words for an error and what to do about it, "" if that is
	// not known. If nil, an error is told in its own words, with the hint it carries.
	Explain func(error) (text, hint string)
	// Now is the present time, which certificates are judged by.
	Now func() time.Time
	// Client, if not nil, is where the cluster is surveyed that gateways are compared with.
	Client kubernetes.Interface

	surveyed   *survey.Survey
	surveyedAt time.Time
}

// surveyAge is how long a Collector uses a survey, and surveyTimeout how long one may take.
const (
	surveyAge     = time.Minute
	surveyTimeout = 15 * time.Second
)

// Collect returns the status of every pod's newest gateway, in the order of
// pods. What cannot be found out about one pod is told in its item. The error
// is that of ctx.
func (c *Collector) Collect(ctx context.Context, pods []corev1.Pod) (*List, error) {
	list := &List{Kind: Kind, APIVersion: APIVersion}
	list.Items = parallel.Each(DefaultParallel, pods, func(pod *corev1.Pod) Item { return c.item(ctx, pod) }, nil)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("asking the gateways: %w", err)
	}
	c.compare(ctx, pods, list)
	c.declare(ctx, pods, list)
	return list, nil
}

// compare compares gateways with the cluster, if one of them tells what it captures.
func (c *Collector) compare(ctx context.Context, pods []corev1.Pod, list *List) {
	if c.Client == nil || !slices.ContainsFunc(list.Items, func(i Item) bool { return i.Status != nil && i.Status.Capture.Fingerprint != "" }) {
		return
	}
	if c.surveyed == nil || c.Now().Sub(c.surveyedAt) > surveyAge {
		ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
		defer cancel()
		found, err := survey.Run(ctx, c.Client, pods, api.Coverage{})
		if err != nil {
			list.NotCompared = "whether gateways capture what the cluster has is not known: " + err.Error()
			return
		}
		c.surveyed, c.surveyedAt = found, c.Now()
	}
	for i := range list.Items {
		list.Items[i].Compare(c.surveyed, &pods[i])
	}
}

func (c *Collector) item(ctx context.Context, pod *corev1.Pod) Item {
	item := Item{Namespace: pod.Namespace, Pod: pod.Name, Node: pod.Spec.NodeName, PodIPs: installed.PodIPs(pod), State: NotEnabled}
	gateway, ok := c.Gateways.Serving(ctx, pod)
	if !ok {
		return item
	}
	item.Container = containerOf(gateway)
	item.beside(pod, gateway)
	// A configuration that cannot be read is the gateway's to complain about.
	if config, err := installed.ConfigOf(pod, gateway.Name); err == nil {
		item.Mode, item.OnFailure = config.Mode, config.OnFailure
		item.moved = moved(pod, gateway, config)
	}
	switch {
	case gateway.Disabled():
		// What it did is over.
		item.State, item.Mode, item.OnFailure = Disabled, "", ""
	case gateway.Phase == installed.Terminated && gateway.ExitCode == 0:
		item.State = Stopped
	case gateway.Phase == installed.Terminated:
		item.State = Crashed
	case gateway.Phase == installed.Running:
		if ended := c.ask(ctx, pod, &item); ended != nil {
			return c.item(ctx, ended)
		}
	default:
		item.State = Waiting
	}
	item.judge(c.Now())
	return item
}

// ask completes item. If the gateway turns out not to run any more, it returns the pod as it is now instead.
func (c *Collector) ask(ctx context.Context, pod *corev1.Pod, item *Item) (ended *corev1.Pod) {
	asked := c.Now()
	answer, err := remote.InTime(ctx, cmp.Or(c.Timeout, DefaultTimeout), "", func(ctx context.Context) (*api.Status, error) {
		return c.Gateways.Gateway(pod, item.Container.Name).Status(ctx)
	})
	if answer != nil {
		if err = checkState(answer); err == nil {
			item.State, item.Status = State(answer.State), answer
			answer.Reason = installed.NameContainers(pod, answer.Reason)
			item.skew = skew(answer.Time, asked, c.Now())
			item.Mode, item.OnFailure = cmp.Or(answer.Mode, item.Mode), cmp.Or(answer.OnFailure, item.OnFailure)
			return nil
		}
	}
	item.State, item.Error, item.hint = NotAnswering, err.Error(), api.Hint(err)
	if c.Client != nil {
		// That a pod is gone, which may have been named, is for the error to say.
		now, rereadErr := installed.Reread(ctx, c.Client, pod)
		item.left = rereadErr == nil && installed.Leaving(now)
		if rereadErr == nil && !item.left && errors.Is(err, remote.ErrNotRunning) {
			if _, running := installed.RunningGateway(now); running != nil {
				return now
			}
		}
	}
	if c.Explain != nil {
		item.Error, item.hint = c.Explain(err)
	}
	return nil
}

// beside notes the other gateways of pod than the one that answers for it.
func (i *Item) beside(pod *corev1.Pod, gateway installed.Gateway) {
	all := installed.Gateways(pod)
	i.gateways = len(all)
	if newest, _ := installed.Current(pod); newest.Name != gateway.Name {
		i.Standby = newest.Name
	} else if before, ok := installed.Predecessor(pod, gateway); ok {
		i.Drains = before.Name
	}
	if last := all[len(all)-1]; i.Standby == "" && gateway.Phase == installed.Running {
		if next, hopeful := installed.Starting(pod, gateway.Name); next.Name == last.Name && !hopeful {
			i.stuck = because(next.Name+" does not start: "+next.Reason, oneLine(next.Message))
		}
	}
}

// checkState refuses what a gateway cannot say: whoever took one over could otherwise
// claim states that are the plugin's to find.
func checkState(answer *api.Status) error {
	switch answer.State {
	case api.Starting, api.Uncertified, api.Standby, api.Ready, api.Degraded, api.Draining, api.Disabled:
		return nil
	}
	return api.WithHint(fmt.Errorf("it reports the unknown state %.40q", answer.State),
		"use the plugin and the gateway image of one release")
}

// skew returns how far a clock is ahead that showed shown at some time between from and
// to: the least that is possible, and 0 of a gateway that does not tell.
func skew(shown, from, to time.Time) time.Duration {
	switch {
	case shown.IsZero():
	case shown.Before(from):
		return shown.Sub(from)
	case shown.After(to):
		return shown.Sub(to)
	}
	return 0
}

// moved says what shows that pod was given a new sandbox after its gateway was made, as
// happens when a node starts again.
func moved(pod *corev1.Pod, gateway installed.Gateway, config *api.Config) string {
	if installed.OtherAddresses(pod, config) {
		return "the pod has other addresses than its gateway was made for"
	}
	if gateway.Phase != installed.Terminated || gateway.StartedAt.IsZero() {
		return ""
	}
	for _, c := range pod.Status.Conditions {
		// The kubelet sets it when the sandbox and its network are there.
		if c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(gateway.StartedAt) {
			return "the pod has a new sandbox"
		}
	}
	return ""
}

func containerOf(g installed.Gateway) *Container {
	container := &Container{Name: g.Name, Image: g.Image, Sidecar: g.Sidecar, Reason: g.Reason, Message: g.Message, StartedAt: g.StartedAt, FinishedAt: g.FinishedAt}
	if g.Phase == installed.Terminated {
		container.ExitCode = &g.ExitCode
	}
	return container
}
