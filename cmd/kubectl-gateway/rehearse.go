package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// rehearsal says what strict mode would have refused, pod by pod.
func (o *changeOptions) rehearsal() *podVerb[change.Rehearsal, rehearsalItem] {
	var changer change.Changer
	var names *edges.Names
	return &podVerb[change.Rehearsal, rehearsalItem]{
		podFlags: &o.podFlags, gateways: true,
		begin: func(_ context.Context, j *job) (worker[change.Rehearsal], error) {
			changer = change.Changer{Gateways: j.gateways, Timeout: o.timeout}
			return func(ctx context.Context, pod *corev1.Pod) change.Rehearsal { return changer.Rehearse(ctx, pod, names) }, nil
		},
		survey: func(ctx context.Context, j *job, pods []corev1.Pod) (err error) {
			var notes []string
			if names, notes, err = edges.ReadNames(ctx, j.client, pods); err != nil {
				return err
			}
			j.warn("", notes)
			return surveyForStrict(ctx, j, pods, &changer)
		},
		tell: func(result change.Rehearsal) outcome { return tellRehearsal(result, time.Now()) },
		item: newRehearsalItem,
	}
}

func tellRehearsal(result change.Rehearsal, now time.Time) outcome {
	told := outcome{pod: result.Pod, done: "nothing that was seen would be refused (dry run)", warnings: result.Warnings, err: result.Err}
	if len(result.Refused) > 0 || result.Unlisted > 0 {
		told.done = "strict mode would have refused connections (dry run)"
	}
	for i := range result.Refused {
		told.notes = append(told.notes, refusedWords(&result.Refused[i], result.Pod.Namespace, now))
	}
	if result.Unlisted > 0 {
		told.notes = append(told.notes, fmt.Sprintf("%d more, of which the addresses are not known", result.Unlisted))
	}
	return told
}

// refusedWords puts r into one line. home is the namespace whose name is left out.
func refusedWords(r *change.Refused, home string, now time.Time) string {
	text := r.Direction
	way := " to "
	if r.Direction == api.Inbound {
		way = " from "
	}
	switch {
	case r.Peer != nil:
		text += way + r.Peer.Text(home)
		if r.Peer.Kind != "" {
			text += " (" + r.Peer.Address.String() + ")"
		}
		text += ", port " + strconv.Itoa(int(r.Port))
	case r.Network.IsValid():
		text += way + r.Network.String()
	}
	text += ": " + terminal.Plural(r.Connections, "connection")
	switch {
	case r.Existing:
		text += ", open now"
	case !r.LastSeen.IsZero():
		text += ", the last one " + duration.HumanDuration(max(0, now.Sub(r.LastSeen))) + " ago"
	}
	text += "; " + r.Reason
	if r.PeerHasGateway {
		text += "; it has a gateway by now"
	}
	return text
}

// rehearsalItem is the machine-readable result of one pod.
type rehearsalItem struct {
	podItem
	Container string `json:"container,omitempty"`
	// Since is when the gateway started, and began to see connections.
	Since   *time.Time       `json:"since,omitempty"`
	Refused []change.Refused `json:"refused"`
	// Unlisted counts connections whose addresses are not known.
	Unlisted uint64 `json:"unlisted,omitempty"`
	itemEnd
}

func newRehearsalItem(result change.Rehearsal) rehearsalItem {
	item := rehearsalItem{podItem: podItemOf(result.Pod), Container: result.Container, Refused: result.Refused, Unlisted: result.Unlisted,
		itemEnd: itemEndOf(result.Warnings, result.Err)}
	if item.Refused == nil {
		item.Refused = []change.Refused{}
	}
	if result.Err == nil {
		item.Since = &result.Since
	}
	return item
}
