package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
)

// changeOptions are the flags of the verbs that change running gateways.
type changeOptions struct {
	podFlags
	timeout  time.Duration
	existing api.Existing
}

// addPodFlags registers those that have nothing to do with open connections.
func (o *changeOptions) addPodFlags(f *pflag.FlagSet) {
	o.podFlags.addFlags(f)
	addTimeout(f, &o.timeout, change.DefaultTimeout, "how long one pod may take")
}

func (o *changeOptions) addFlags(f *pflag.FlagSet) {
	o.addPodFlags(f)
	flags.Choice(f, &o.existing, "existing", "", api.ExistingLeave, "what happens to open connections that are forbidden from then on", []flags.Word[api.Existing]{
		{Value: api.ExistingLeave, Meaning: "they stay"},
		{Value: api.ExistingReset, Meaning: "they are reset"},
	})
}

// verb makes the change at the gateways of pods.
func (o *changeOptions) verb(wanted change.Change) *podVerb[change.Result, changeItem] {
	wanted.Existing = o.existing
	done, question := "allows everyone in the trust domain", "change who may connect to"
	switch {
	case wanted.Mode != "":
		done, question = "mode "+string(wanted.Mode), "set mode "+string(wanted.Mode)+" for"
	case wanted.Log != "":
		done, question = "logs "+loggedWords(wanted.Log), "change the log of"
		if wanted.LogLimit > 0 {
			done += ", at most " + installed.Size(wanted.LogLimit) + " an hour"
		}
	case len(wanted.Rules.Allow) > 0:
		done = "allows " + strings.Join(wanted.Rules.Allow, " ")
	}
	if len(wanted.Rules.Deny) > 0 {
		done += ", denies " + strings.Join(wanted.Rules.Deny, " ")
	}
	if wanted.Rules.Audit {
		done += ", and lets in and logs whom that refuses"
	}
	given, to := byHand(wanted)
	var changer change.Changer
	return &podVerb[change.Result, changeItem]{
		podFlags: &o.podFlags, question: question, gateways: true,
		begin: func(ctx context.Context, j *job) (worker[change.Result], error) {
			changer = change.Changer{Gateways: j.gateways, Timeout: o.timeout}
			reader := declared.NewReader(ctx, j.client)
			return func(ctx context.Context, pod *corev1.Pod) change.Result {
				return overridden(changer.Change(ctx, pod, wanted), reader, given, to)
			}, nil
		},
		survey: func(ctx context.Context, j *job, pods []corev1.Pod) error {
			switch {
			case wanted.Mode == api.Permissive, wanted.Log != "":
				return nil
			case wanted.Mode == api.Strict:
				return surveyForStrict(ctx, j, pods, &changer)
			}
			return carry(ctx, j, pods, &changer)
		},
		tell: func(result change.Result) outcome {
			told := outcome{pod: result.Pod, done: "gateway " + done, notes: carried(result.Covered), warnings: result.Warnings, err: result.Err,
				event: announce.Changed, mode: modeIn(result.Status)}
			if result.Err == nil && o.existing == api.ExistingReset {
				told.notes = append(told.notes, fmt.Sprintf("open connections that were reset: %d", result.Status.Reset))
			}
			return told
		},
		item:    newChangeItem,
		closing: func(found *targets.Selection, _ []change.Result) []string { return ofWorkloads(found.Workloads) },
	}
}

// byHand returns which settings wanted changes, as given reports, and what they are to be.
func byHand(wanted change.Change) (given func(setting string) bool, to *api.Config) {
	names := []string{"allow", "deny", "audit", "max-connections-per-peer"}
	switch {
	case wanted.Mode != "":
		names = []string{"mode"}
	case wanted.Log != "":
		names = []string{"log"}
	}
	to = &api.Config{Mode: wanted.Mode, Rules: wanted.Rules, LogConfig: api.LogConfig{Log: wanted.Log}}
	return func(setting string) bool { return slices.Contains(names, setting) }, to
}

// overridden is result, with a warning for each setting that was changed as given and to say while something else is
// declared about the pod.
func overridden(result change.Result, reader *declared.Reader, given func(setting string) bool, to *api.Config) change.Result {
	if result.Err != nil {
		return result
	}
	settings, unread := reader.Read(result.Pod)
	result.Warnings = append(result.Warnings, settings.Overridden(to, given)...)
	for _, err := range unread {
		// Who may not read annotations changes gateways as well.
		if !apierrors.IsForbidden(err) {
			result.Warnings = append(result.Warnings, err.Error())
		}
	}
	return result
}

// surveyForStrict makes the survey of a change to strict mode, which carries coverage along. It says
// why if the cluster cannot be surveyed, which is no reason not to change the mode.
func surveyForStrict(ctx context.Context, j *job, pods []corev1.Pod, changer *change.Changer) error {
	if err := carry(ctx, j, pods, changer); err != nil {
		return err
	}
	var found *survey.Survey
	var err error
	if changer.Carry != nil {
		found = changer.Carry.Survey
	} else if found, err = survey.RunForStrict(ctx, j.client, pods); err != nil {
		j.warn("", []string{"whom strict mode keeps out is not known: " + err.Error()})
		return ctx.Err()
	}
	changer.Survey = found
	j.warn("", found.StrictUnknown())
	return nil
}

// changeItem is the machine-readable result of one pod.
type changeItem struct {
	podItem
	Container string   `json:"container,omitempty"`
	Mode      api.Mode `json:"mode,omitempty"`
	api.Rules
	// Log is which connections are logged, LogLimit how many bytes of log are written in an hour.
	Log      api.Log `json:"log,omitempty"`
	LogLimit int64   `json:"logLimit,omitempty"`
	// Reset counts the open connections that the change forbade and that were reset.
	Reset int `json:"reset,omitempty"`
	itemEnd
}

func newChangeItem(result change.Result) changeItem {
	item := changeItem{podItem: podItemOf(result.Pod), Container: result.Container, itemEnd: itemEndOf(result.Warnings, result.Err)}
	if result.Err == nil {
		item.Mode, item.Rules, item.Reset = result.Status.Mode, result.Status.Rules, result.Status.Reset
		item.Log, item.LogLimit = result.Status.Log.Level, result.Status.Log.Limit
	}
	return item
}

// lastWord takes one of words off the end of args. The errors say that there is none, or that the last
// one is not what is wanted.
func lastWord[T ~string](args []string, words []flags.Word[T], missing, wanted string) (T, []string, error) {
	hint := "end the command with " + flags.Enumerate(words)
	if len(args) == 0 {
		return "", nil, api.WithHint(errors.New(missing), hint)
	}
	last := len(args) - 1
	word, ok := flags.Find(words, args[last])
	if !ok {
		return "", nil, api.WithHint(fmt.Errorf("%q is not %s", args[last], wanted), hint)
	}
	return word, args[:last], nil
}

// completeBefore completes targets and then the last word of the command line, one of words.
func completeBefore[T ~string](a *app, o *changeOptions, words []flags.Word[T]) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if slices.ContainsFunc(args, func(arg string) bool { _, ok := flags.Find(words, arg); return ok }) {
			return nil, targetsDirective
		}
		offers, directive := a.completeTargets(enabled)(cmd, args, toComplete)
		if len(args) > 0 || !o.targets.Empty(args) || o.targets.AllNamespaces {
			offers = append(matching(flags.Completions(words), toComplete), offers...)
		}
		return offers, directive
	}
}
