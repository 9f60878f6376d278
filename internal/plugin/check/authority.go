package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
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

// present returns the authority, or the finding of a check that needs one.
func (f *facts) present() (*ca.Authority, []Item) {
	a, err := f.authority()
	if err != nil {
		return nil, skipped("there is no authority to look at")
	}
	return a, nil
}

func checkAuthorityExpiry(_ context.Context, f *facts, a *ca.Authority) []Item {
	left := a.NotAfter().Sub(f.Now())
	if left < soonExpired {
		return []Item{{Result: Warning, Detail: fmt.Sprintf("it expires in %s", duration.HumanDuration(left)),
			Command: "kubectl gateway rotate --ca" + f.place()}}
	}
	return ok("for another %s", duration.HumanDuration(left))
}

func checkRotation(ctx context.Context, f *facts, _ *ca.Authority) []Item {
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
