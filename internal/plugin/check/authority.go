package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// soonExpired is when an authority must be replaced at the latest: certificates of pods
// never outlive it.
const soonExpired = 60 * 24 * time.Hour

const initCommand = "kubectl gateway init-ca"

func checkAuthority(_ context.Context, f *facts) []Item {
	a, err := f.authority()
	if err == nil {
		if own, made := a.(*ca.Authority); made && keys.Describe(own) != "" {
			return ok("%s, %s", a, keys.Describe(own))
		}
		return ok("%s", a)
	}
	found := failed(Error, err)
	if errors.Is(err, authority.ErrNoAuthority) && !strings.Contains(err.Error(), "trusts") || errors.Is(err, authority.ErrNoBundle) {
		found.Hint, found.Command = "", initCommand+f.place()
	}
	return []Item{found}
}

// location says where the authority is.
func (f *facts) location() authority.Location {
	return authority.Location{Client: f.Client, Dir: f.AuthorityDir}
}

// place is the flag with the authority's directory for another command.
func (f *facts) place() string {
	if f.AuthorityDir == "" {
		return ""
	}
	// A shell takes all between single quotes as it is.
	return " --authority-dir='" + strings.ReplaceAll(f.AuthorityDir, "'", `'\''`) + "'"
}

// present returns what issues certificates, or the finding of a check that needs it.
func (f *facts) present() (ca.Issuer, []Item) {
	a, err := f.authority()
	if err != nil {
		return nil, skipped("there is no authority to look at")
	}
	return a, nil
}

// checkAuthorityExpiry looks at the end of an authority, or of the roots of a signer.
func checkAuthorityExpiry(_ context.Context, f *facts, issuer ca.Issuer) []Item {
	if s, signed := issuer.(*signer.Signer); signed {
		_, end := ca.Validity(s.Trust())
		if left := end.Sub(f.Now()); left < soonExpired {
			return []Item{{Result: Warning, Detail: fmt.Sprintf("a root of signer %s expires in %s", s.Name, duration.HumanDuration(left)),
				Hint: "find out whether the signer is about to get another one: 'watch' and 'rotate --ca' bring it to gateways once it is published"}}
		}
		return ok("the roots of signer %s for another %s", s.Name, duration.HumanDuration(end.Sub(f.Now())))
	}
	a := issuer.(*ca.Authority)
	left := a.NotAfter().Sub(f.Now())
	if left < soonExpired {
		return []Item{{Result: Warning, Detail: fmt.Sprintf("it expires in %s", duration.HumanDuration(left)),
			Command: "kubectl gateway rotate --ca" + f.place()}}
	}
	return ok("for another %s", duration.HumanDuration(left))
}

func checkRotation(ctx context.Context, f *facts, issuer ca.Issuer) []Item {
	if s, signed := issuer.(*signer.Signer); signed {
		if s.Settled() {
			return nil
		}
		return []Item{{Result: Warning, Detail: fmt.Sprintf("the roots of signer %s have changed (%d new, %d gone), and not all gateways are known to trust those of now alone",
			s.Name, len(s.New()), len(s.Gone())), Hint: "bring them to all gateways; 'watch' does that by itself", Command: "kubectl gateway rotate --ca" + f.place()}}
	}
	rotation, err := authority.OpenRotation(ctx, f.location())
	switch {
	case errors.Is(err, authority.ErrForeign):
		return []Item{failed(Warning, err)}
	case err != nil:
		return skipped("it cannot be found out: %v", err)
	case rotation.Phase() != authority.Idle:
		return []Item{{Result: Warning, Detail: fmt.Sprintf("one is under way and waits in phase %q", rotation.Phase()),
			Hint: "continue it", Command: "kubectl gateway rotate --ca" + f.place()}}
	}
	return nil
}

func checkRanges(_ context.Context, f *facts) []Item {
	cluster, err := f.survey()
	if err != nil {
		return []Item{failed(Error, err)}
	}
	list := lists.Map(cluster.Warnings, func(warning string) Item { return Item{Result: Warning, Detail: warning} })
	return orOK(list, "pods %s; Services %s", survey.List(cluster.Found.Capture), survey.List(cluster.Found.Services))
}
