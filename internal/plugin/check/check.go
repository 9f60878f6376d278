package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
)

const (
	// DefaultTimeout bounds one check.
	DefaultTimeout = 30 * time.Second
	// DefaultImageTimeout bounds the test of the image: time to pull it over a slow
	// line.
	DefaultImageTimeout = 2 * time.Minute
	// DefaultInterval is the pause before failed checks run again.
	DefaultInterval = 2 * time.Second
	// parallelChecks is no limit: checks wait for the cluster, not for this machine.
	parallelChecks = 64
)

// Kind and APIVersion of a Report. A version never loses or changes a field.
const (
	Kind       = "GatewayCheckReport"
	APIVersion = "kubectl-gateway.github.io/v1alpha1"
)

// Result is how a check ended.
type Result string

const (
	// OK includes what is unusual and harmless.
	OK Result = "ok"
	// Skipped is unknown, or does not apply; the detail says why.
	Skipped Result = "skipped"
	// Warning works partly, or not for long.
	Warning Result = "warning"
	// Error keeps gateways from working.
	Error Result = "error"
)

// Category groups checks by what they look at.
type Category string

// The categories, in the order of a report.
const (
	Client        Category = "client"
	Cluster       Category = "cluster"
	Permissions   Category = "permissions"
	Policy        Category = "namespace policy"
	Nodes         Category = "nodes"
	Image         Category = "image"
	Authority     Category = "authority"
	Sign          Category = "signer"
	Ranges        Category = "ranges"
	NetworkPolicy Category = "network policies"
	Meshes        Category = "other meshes"
	Gateways      Category = "gateways"
	Peers         Category = "peers"
)

// Item is one line of a report. A check has an item for each of its findings.
type Item struct {
	ID       string   `json:"id"`
	Category Category `json:"category"`
	// Description is true if the result is OK.
	Description string `json:"description"`
	Result      Result `json:"result"`
	// Objects are affected, in kubectl's syntax: pod/web-0 -n shop.
	Objects []string `json:"objects,omitempty"`
	// Detail is one sentence.
	Detail string `json:"detail,omitempty"`
	// Hint is advice in words, Command a shell command.
	Hint    string `json:"hint,omitempty"`
	Command string `json:"command,omitempty"`
}

// Report is what check prints with -o json.
type Report struct {
	Kind       string   `json:"kind"`
	APIVersion string   `json:"apiVersion"`
	Namespaces []string `json:"namespaces"`
	// Result is the worst of the items.
	Result Result `json:"result"`
	Checks []Item `json:"checks"`
}

// Count returns how many items of r have a result.
func (r *Report) Count(result Result) int {
	n := 0
	for i := range r.Checks {
		if r.Checks[i].Result == result {
			n++
		}
	}
	return n
}

// Checker runs the checks.
type Checker struct {
	// Unread is why the kubeconfig could not be read. Then the cluster is not asked,
	// and Client, Gateways and Find may be nil.
	Unread   error
	Client   kubernetes.Interface
	Gateways *remote.Client
	// Namespace is checked if there are no pods.
	Namespace string
	// Find returns the pods to check, and joins the errors of other named pods. No
	// pods at all is not an error.
	Find func(context.Context) ([]corev1.Pod, error)
	// Named means that the user chose the pods. Otherwise they are all pods of the
	// namespace, and need not all have a gateway.
	Named bool
	// Context describes the connection in the user's terms.
	Context string
	// ServerTime reads the clock of the API server. It may be nil.
	ServerTime func(context.Context) (time.Time, error)
	// Version is that of the plugin.
	Version string
	// Image and PullPolicy are those of future gateways.
	Image      string
	PullPolicy corev1.PullPolicy
	// TestImage allows a temporary pod that runs the image.
	TestImage bool
	// Wire is that of future gateways. Empty means api.WireAuto.
	Wire api.Wire
	// Given are ranges that the survey need not find.
	Given api.Coverage
	// AuthorityDir is the directory of the authority; empty means the default one.
	AuthorityDir string
	// Sign is the signer as which 'watch --sign' is to work. It is not looked at if that is empty.
	Sign string
	// Timeout and ImageTimeout bound one check; if zero they are the defaults.
	Timeout, ImageTimeout time.Duration
	// Interval is DefaultInterval if zero.
	Interval time.Duration
	// Now is the present time.
	Now func() time.Time
	// LookPath finds a program on this machine, as exec.LookPath does.
	LookPath func(string) (string, error)
	// Progress receives a line for each change in the cluster, and for waiting.
	Progress io.Writer

	progress sync.Mutex
}

func (c *Checker) say(format string, args ...any) {
	c.progress.Lock()
	defer c.progress.Unlock()
	fmt.Fprintf(c.Progress, format+"\n", args...)
}

// check is one thing to find out.
type check struct {
	id          string
	category    Category
	description string
	// offline checks do not ask the API server.
	offline bool
	// slow checks have ImageTimeout.
	slow bool
	// run leaves out what its items have from here.
	run func(context.Context, *facts) []Item
}

func ok(format string, args ...any) []Item {
	return []Item{{Result: OK, Detail: fmt.Sprintf(format, args...)}}
}

// orOK returns list, or that all is well if nothing is in it.
func orOK(list []Item, format string, args ...any) []Item {
	if len(list) > 0 {
		return list
	}
	return ok(format, args...)
}

func skipped(format string, args ...any) []Item {
	return []Item{{Result: Skipped, Detail: fmt.Sprintf(format, args...)}}
}

// failed is the finding of an error with a hint. A hint that is nothing but a quoted
// command becomes the command.
func failed(result Result, err error) Item {
	f := Item{Result: result, Detail: err.Error(), Hint: api.Hint(err)}
	if text, found := strings.CutPrefix(f.Hint, "'"); found && strings.Count(text, "'") == 1 && strings.HasSuffix(text, "'") {
		f.Hint, f.Command = "", strings.TrimSuffix(text, "'")
	}
	return f
}

// group joins findings that differ in their objects only.
func group(list []Item) []Item {
	var out []Item
	for _, f := range list {
		i := slices.IndexFunc(out, func(g Item) bool {
			return g.Result == f.Result && g.Detail == f.Detail && g.Hint == f.Hint && g.Command == f.Command
		})
		if i < 0 {
			out = append(out, f)
			continue
		}
		out[i].Objects = append(out[i].Objects, f.Objects...)
	}
	return out
}

// Run runs all checks. It runs those that end with Error again until none does, for at
// most wait. The error is that of ctx.
func (c *Checker) Run(ctx context.Context, wait time.Duration) (*Report, error) {
	checks := c.checks()
	deadline, interval := c.Now().Add(wait), cmp.Or(c.Interval, DefaultInterval)
	items := make([][]Item, len(checks))
	todo := make([]int, len(checks))
	for i := range todo {
		todo[i] = i
	}
	for said := ""; ; {
		namespaces, results := c.round(ctx, checks, todo)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("checking: %w", err)
		}
		var again []int
		var names []string
		for n, i := range todo {
			items[i] = results[n]
			if slices.ContainsFunc(items[i], func(item Item) bool { return item.Result == Error }) {
				again, names = append(again, i), append(names, checks[i].id)
			}
		}
		left := deadline.Sub(c.Now())
		if len(again) == 0 || left <= 0 {
			return newReport(namespaces, items), nil
		}
		// A check that was skipped because of an error may succeed after it.
		for _, i := range todo {
			if !slices.Contains(again, i) && slices.ContainsFunc(items[i], func(item Item) bool { return item.Result == Skipped }) {
				again = append(again, i)
			}
		}
		slices.Sort(again)
		todo = again
		if now := strings.Join(names, ", "); now != said {
			c.say("waiting up to %s for: %s", left.Round(time.Second), now)
			said = now
		}
		if err := resend.Pause(ctx, min(interval, left)); err != nil {
			return nil, fmt.Errorf("waiting for checks to pass: %w", err)
		}
	}
}

func newReport(namespaces []string, items [][]Item) *Report {
	report := &Report{Kind: Kind, APIVersion: APIVersion, Namespaces: namespaces, Result: OK, Checks: slices.Concat(items...)}
	for _, result := range []Result{Warning, Error} {
		if report.Count(result) > 0 {
			report.Result = result
		}
	}
	return report
}

// round runs some of checks and returns the items of each.
func (c *Checker) round(ctx context.Context, checks []check, todo []int) ([]string, [][]Item) {
	f := newFacts(ctx, c)
	results := parallel.Each(parallelChecks, todo, func(i *int) []Item {
		k := checks[*i]
		items := group(f.findings(ctx, &k))
		for n := range items {
			items[n].ID, items[n].Category, items[n].Description = k.id, k.category, k.description
		}
		return items
	}, nil)
	return f.namespaces(), results
}

// findings runs one check, and returns at least one finding.
func (f *facts) findings(ctx context.Context, k *check) []Item {
	timeout := cmp.Or(f.Timeout, DefaultTimeout)
	if k.slow {
		timeout = cmp.Or(f.ImageTimeout, DefaultImageTimeout)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	if !k.offline {
		if f.Unread != nil {
			return skipped("it is not known which cluster to ask")
		}
		if _, err := f.server(); err != nil && k.id != idReachable {
			return skipped("the API server does not answer")
		}
	}
	found := k.run(ctx, f)
	if errors.Is(context.Cause(ctx), errTimeout) && !slices.ContainsFunc(found, func(x Item) bool { return x.Result == OK || x.Result == Warning }) {
		return []Item{{Result: Error, Detail: fmt.Sprintf("not known after %s", timeout), Hint: "--timeout waits longer"}}
	}
	return orOK(found, "")
}

var errTimeout = errors.New("the check took too long")
