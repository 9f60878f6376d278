package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

// bundles are the proposed roles, by name. Each role holds all rights of its uses, so that
// applying it again removes nothing.
func bundles() map[string][]rights.Use {
	return map[string][]rights.Use{
		"kubectl-gateway":         {rights.Enable, rights.Endpoints, rights.Status, rights.Tail, rights.Disable, rights.Rotate},
		"kubectl-gateway-secrets": {rights.Secrets},
		"kubectl-gateway-signer":  {rights.Requests},
		"kubectl-gateway-csrs":    {rights.CSRs},
		"kubectl-gateway-watch":   {rights.Watch},
	}
}

// question is a right in a namespace, and reply the server's answer.
type question struct {
	namespace string
	rights.Right
}

type reply struct {
	allowed bool
	err     error
}

// askOnce returns a function that asks the server each question once.
func (f *facts) askOnce(ctx context.Context) func(question) reply {
	return parallel.Once(func(q question) reply {
		ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.Timeout, DefaultTimeout))
		defer cancel()
		allowed, err := rights.Ask(ctx, f.Client, q.namespace, q.Right)
		if err != nil {
			err = fmt.Errorf("asking whether you may %s: %w", q.Right, err)
		}
		return reply{allowed, err}
	})
}

// missing returns the rights of list that the user lacks in namespace.
func (f *facts) missing(namespace string, list []rights.Right) ([]rights.Right, error) {
	return rights.Missing(list, func(r rights.Right) (bool, error) {
		q := question{namespace, r}
		if r.Scope != rights.Namespace {
			// One question serves all namespaces.
			q.namespace = ""
		}
		said := f.ask(q)
		return said.allowed, said.err
	})
}

// may returns the check of the rights that use needs.
func may(use rights.Use) func(context.Context, *facts) []Item {
	return func(_ context.Context, f *facts) []Item {
		var list []Item
		for _, namespace := range f.namespaces() {
			missing, err := f.missing(namespace, rights.Of(use))
			if err != nil {
				return []Item{failed(Error, err)}
			}
			if len(missing) > 0 {
				list = append(list, f.denied(use, namespace, missing))
			}
		}
		return list
	}
}

// maySecrets is the check of the rights to Secrets, of which a signer needs none.
func maySecrets(ctx context.Context, f *facts) []Item {
	if issuer, why := f.present(); why == nil && len(rights.Issuing(issuer)) > 0 {
		return skipped("a signer of the cluster issues certificates for keys of gateways alone")
	}
	return may(rights.Secrets)(ctx, f)
}

// maySigner is the check of the rights that a signer needs, where one was chosen.
func maySigner(ctx context.Context, f *facts) []Item {
	issuer, why := f.present()
	if why != nil {
		return why
	}
	uses := rights.Issuing(issuer)
	if len(uses) == 0 {
		return skipped("no signer of the cluster issues the certificates")
	}
	var list []Item
	for _, use := range uses {
		list = append(list, may(use)(ctx, f)...)
	}
	return list
}

func (f *facts) denied(use rights.Use, namespace string, missing []rights.Right) Item {
	found := Item{Result: Error, Objects: []string{"namespace/" + namespace}, Detail: "you may not: " + strings.Join(lists.Texts(missing), ", "),
		Hint: "whoever may grant it runs this"}
	switch use {
	case rights.Secrets:
		found.Result, found.Hint = Warning, "'enable --delivery=csr' needs none of it; or whoever may grant it runs this"
	case rights.Watch:
		found.Result, found.Hint = Warning, "'watch' then heeds fewer annotations; or whoever may grant it runs this"
	}
	review, err := f.user()
	name := unknownUser
	if err != nil {
		found.Hint += ", with your name in the place of " + unknownUser
	} else {
		name = review.Status.UserInfo.Username
	}
	for role, uses := range bundles() {
		if slices.Contains(uses, use) {
			found.Command, err = grant(role, uses, namespace, name)
		}
	}
	if err != nil {
		found.Hint = err.Error()
	}
	return found
}

// unknownUser is a placeholder in manifests for a user that the server does not name.
const unknownUser = "YOUR-USER-NAME"
