package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
)

// proposal prints commands that allow what the gateways of pods have seen.
func (o *changeOptions) proposal() *podVerb[edges.Proposal, proposalItem] {
	return &podVerb[edges.Proposal, proposalItem]{
		podFlags: &o.podFlags, gateways: true,
		begin: func(_ context.Context, j *job) (worker[edges.Proposal], error) {
			collector := edges.Collector{Gateways: j.gateways, Timeout: o.timeout}
			return collector.Propose, nil
		},
		tell: tellProposal,
		item: newProposalItem,
	}
}

// allowCommand returns the command that sets the rules of p, empty if there is nothing to allow.
func allowCommand(p *edges.Proposal) string {
	if len(p.Rules.Allow) == 0 {
		return ""
	}
	return fmt.Sprintf("kubectl gateway allow pod/%s -n %s %s", p.Pod.Name, p.Pod.Namespace, p.Rules.Arguments())
}

func tellProposal(p edges.Proposal) outcome {
	told := outcome{pod: p.Pod, command: allowCommand(&p), err: p.Err}
	since := p.Since.UTC().Format(time.RFC3339)
	if told.command == "" {
		told.notes = []string{"no gateway has connected since " + since + ": there is nothing to propose"}
	} else {
		told.notes = []string{"these have connected since " + since}
	}
	if p.Forgotten > 0 {
		told.warnings = []string{fmt.Sprintf("%d connections may be missing: a gateway remembers a limited number of peers", p.Forgotten)}
	}
	return told
}

// proposalItem is the machine-readable form of a proposal.
type proposalItem struct {
	podItem
	api.Rules
	// Since is when the gateway began to count. Command sets the rules; it is empty if there is
	// nobody to allow.
	Since   time.Time `json:"since,omitzero"`
	Command string    `json:"command,omitempty"`
	itemEnd
}

func newProposalItem(p edges.Proposal) proposalItem {
	item := proposalItem{podItem: podItemOf(p.Pod), itemEnd: itemEndOf(tellProposal(p).warnings, p.Err)}
	if p.Err == nil {
		item.Rules, item.Since, item.Command = p.Rules, p.Since, allowCommand(&p)
	}
	return item
}
