package change

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// Cover makes the coverage of gateways anew.
type Cover struct {
	// Survey is what the cluster has.
	Survey *survey.Survey
	// Name, if not nil, changes what the user named of a gateway's coverage.
	Name func(*api.Coverage)
	// DryRun only looks.
	DryRun bool
}

// Covered is what became of a coverage.
type Covered struct {
	// Changed is false if the gateway had that coverage already.
	Changed        bool
	Added, Removed []survey.Part
}

// String says what was added and removed.
func (c *Covered) String() string {
	var words []string
	if n := len(c.Added); n > 0 {
		words = append(words, fmt.Sprintf("%d added: %s", n, survey.List(c.Added)))
	}
	if n := len(c.Removed); n > 0 {
		words = append(words, fmt.Sprintf("%d removed: %s", n, survey.List(c.Removed)))
	}
	return cmp.Or(strings.Join(words, "; "), "the same ranges")
}

// Refresh asks the gateway that runs in pod for its coverage, makes that anew, and sends it if
// it differs.
func (c *Changer) Refresh(ctx context.Context, pod *corev1.Pod, cover *Cover) Result {
	result := Result{Pod: pod}
	result.Container, result.Err = c.Gateways.Ask(ctx, pod, cmp.Or(c.Timeout, DefaultTimeout), "the coverage may have been changed", func(ctx context.Context, conn *remote.Conn) error {
		status, err := conn.Status(ctx)
		if err != nil {
			return err
		}
		result.Status, result.Covered, err = cover.At(ctx, conn, pod, status)
		return err
	})
	if result.Err == nil {
		result.Warnings = warnings(Change{}, result.Status)
	}
	return result
}

// Along is what Change does with c.Carry, for a gateway that has answered with result.Status.
func (c *Changer) Along(ctx context.Context, result *Result) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, DefaultTimeout))
	defer cancel()
	c.along(ctx, c.Gateways.Gateway(result.Pod, result.Container), result.Status, result)
}

// along brings the coverage of the gateway of pod, which has answered with the status of
// result, up to date by c.Carry. What fails is a warning.
func (c *Changer) along(ctx context.Context, conn *remote.Conn, status *api.Status, result *Result) {
	if c.Carry == nil || status == nil || status.Capture.Fingerprint == "" {
		return
	}
	now, covered, err := c.Carry.At(ctx, conn, result.Pod, status)
	if err != nil {
		result.Warnings = append(result.Warnings, fmt.Sprintf("what it captures was not refreshed: %v", err))
		return
	}
	result.Covered = covered
	if result.Status != nil && covered.Changed {
		// The count belongs to the change before.
		now.Reset = result.Status.Reset
		result.Status = now
	}
}

// At makes the coverage of a gateway with status anew, and returns the status that it has then.
func (c *Cover) At(ctx context.Context, conn *remote.Conn, pod *corev1.Pod, status *api.Status) (*api.Status, *Covered, error) {
	for again := true; ; again = false {
		if status.Capture.Fingerprint == "" {
			return nil, nil, api.WithHint(errors.New("the gateway cannot change what it captures"), "use the plugin and the gateway image of one release")
		}
		named, seen := status.Capture.Named, status.Capture.Named.Fingerprint()
		if c.Name != nil {
			c.Name(&named)
		}
		wanted := c.Survey.Again(pod, named, status.Capture.Coverage)
		if wanted.Fingerprint() == status.Capture.Fingerprint && named.Fingerprint() == seen {
			return status, &Covered{}, nil
		}
		if c.DryRun {
			covered := &Covered{Changed: true}
			covered.Added, covered.Removed = c.Survey.Difference(status.Capture.Coverage, withNodeSide(wanted, status))
			return status, covered, nil
		}
		changed, err := conn.SetCoverage(ctx, &api.Cover{Coverage: wanted, Named: named, Seen: seen})
		if err == nil {
			covered := &Covered{Changed: true}
			covered.Added, covered.Removed = c.Survey.Difference(status.Capture.Coverage, changed.Capture.Coverage)
			return changed, covered, nil
		}
		if !again {
			return nil, nil, err
		}
		now, askErr := conn.Status(ctx)
		if askErr != nil || now.Capture.Named.Fingerprint() == seen {
			return nil, nil, err
		}
		// Somebody else has named something meanwhile.
		status = now
	}
}

// withNodeSide returns c with the sources of plaintext in status that nobody named: the
// gateway has found some of them itself, and finds them again.
func withNodeSide(c api.Coverage, status *api.Status) api.Coverage {
	found := slices.DeleteFunc(slices.Clone(status.Capture.PlaintextFrom), func(source api.Source) bool {
		return slices.ContainsFunc(status.Capture.Named.PlaintextFrom, func(named api.Source) bool { return named.From == source.From })
	})
	c.PlaintextFrom = api.MergeSources(slices.Concat(c.PlaintextFrom, found))
	return c
}
