package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
)

// watchReport tells the user what watch does: a live view on a terminal, lines of
// text or JSON otherwise. Its methods may be called at the same time.
type watchReport struct {
	out, errOut io.Writer
	style       *terminal.Style
	format      string
	// machine prints events for programs, if format is set.
	machine output.Printer
	where   string
	counts  func() watch.Counts
	// view is nil without a live view.
	view *watchView

	mu     sync.Mutex
	hints  map[string]bool
	totals map[watch.Action]int
	// failed are the pods with which the last try failed.
	failed map[types.NamespacedName]bool
	outErr error
	// broken ends watch when nobody reads the output any more.
	broken func(error)
	done   chan struct{}
	drawn  chan struct{}
}

func newWatchReport(a *app, format string, options watch.Options, once bool) *watchReport {
	r := &watchReport{
		out: a.Out, errOut: a.ErrOut, style: terminal.For(a.Out, os.Getenv), format: format,
		where: where(options), hints: map[string]bool{}, totals: map[watch.Action]int{}, failed: map[types.NamespacedName]bool{},
		counts: func() watch.Counts { return watch.Counts{} }, broken: func(error) {},
	}
	if format != "" {
		// It was tried when the flag was parsed.
		r.machine, _ = output.New(format, output.Options{})
	}
	if file, ok := a.Out.(*os.File); ok && format == "" && !once && r.style.Terminal() && os.Getenv("TERM") != "dumb" {
		r.view = &watchView{style: r.style, title: "watching " + r.where, live: terminal.NewLive(file)}
	}
	return r
}

// start begins to show something. broken is called when that is not possible any
// more.
func (r *watchReport) start(broken func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = broken
	if r.view == nil {
		if r.format == "" {
			fmt.Fprintf(r.errOut, "watching %s\n", r.where)
		}
		return
	}
	r.done, r.drawn = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(r.drawn)
		r.view.run(r.counts, r.done, r.write)
	}()
}

// finish ends the view and sums up.
func (r *watchReport) finish() {
	if r.done != nil {
		close(r.done)
		<-r.drawn
	}
	counts := r.counts()
	r.mu.Lock()
	defer r.mu.Unlock()
	if counts.Outdated > 0 {
		fmt.Fprintln(r.errOut, outdated(counts))
	}
	fmt.Fprintf(r.errOut, "%d pods watched: %d ready, %d in work, %d failed; %s\n",
		counts.Watched, counts.Ready, counts.Working, counts.Failed, r.sums())
}

// outdated says which gateways are still to be upgraded.
func outdated(counts watch.Counts) string {
	text := fmt.Sprintf("%d gateways are older than this plugin", counts.Outdated)
	if counts.Halted != nil {
		text += ", and upgrades are halted"
	}
	return text
}

// next says what to do when some pods are not as they are wanted.
func (r *watchReport) next() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return next(slices.Collect(maps.Keys(r.failed)), "the same command can be run again at any time, and without --once it tries until it is done")
}

func (r *watchReport) sums() string {
	var list []string
	for _, action := range []watch.Action{watch.Enabled, watch.Replaced, watch.Upgraded, watch.Renewed, watch.Refreshed, watch.Changed, watch.Disabled, watch.Signed, watch.Denied} {
		if n := r.totals[action]; n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, action))
		}
	}
	if list == nil {
		return "nothing was changed"
	}
	return strings.Join(list, ", ")
}

// warnings reports what is about no pod.
func (r *watchReport) warnings(list []string) {
	if len(list) > 0 {
		r.add(watch.Event{Time: time.Now(), Action: watch.Noticed, Warnings: list})
	}
}

// notice reports what is no warning.
func (r *watchReport) notice(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.view != nil:
		r.view.add(terminal.Normal, time.Now().Format(time.TimeOnly)+" "+line(text))
	case r.format == "":
		fmt.Fprintf(r.errOut, "%s\n", line(text))
	}
}

// add reports one event.
func (r *watchReport) add(e watch.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals[e.Action]++
	if e.Pod != "" && e.Request == "" {
		name := types.NamespacedName{Namespace: line(e.Namespace), Name: line(e.Pod)}
		if delete(r.failed, name); e.Action == watch.Failed || e.Action == watch.Refused {
			r.failed[name] = true
		}
	}
	if r.format != "" {
		r.printMachine(eventJSON(e))
		return
	}
	say := func(tone terminal.Tone, text string) {
		if r.view != nil {
			r.view.add(tone, text)
			return
		}
		r.print(r.style.Paint(tone, text) + "\n")
	}
	stamp := e.Time.Format(time.TimeOnly) + " "
	if text, tone := eventText(e); text != "" {
		say(tone, stamp+text)
	}
	for _, warning := range e.Warnings {
		say(terminal.Caution, stamp+who(e)+"warning: "+line(warning))
	}
	if hint := advice(e.Err); e.Err != nil && hint != "" && !r.hints[hint] {
		r.hints[hint] = true
		say(terminal.Dim, "hint: "+line(hint))
	}
}

// write is print for the view. It reports whether there is any use in going on.
func (r *watchReport) write(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.print(text)
	return r.outErr == nil
}

func (r *watchReport) print(text string) {
	if r.outErr != nil {
		return
	}
	if _, err := io.WriteString(r.out, text); err != nil {
		r.outErr = fmt.Errorf("printing events: %w", err)
		r.broken(r.outErr)
	}
}

// printMachine prints an event in a line.
func (r *watchReport) printMachine(event string) {
	if r.format == output.JSON {
		r.print(event)
		return
	}
	var text strings.Builder
	if err := r.machine(&text, json.RawMessage(event)); err != nil {
		if r.outErr == nil {
			r.outErr = fmt.Errorf("printing events: %w", err)
			r.broken(r.outErr)
		}
		return
	}
	r.print(strings.TrimSuffix(text.String(), "\n") + "\n")
}

func who(e watch.Event) string {
	if e.Pod == "" {
		return ""
	}
	return line(e.Namespace) + "/" + line(e.Pod) + " "
}

// eventText says what happened in one line, "" if only warnings came.
func eventText(e watch.Event) (string, terminal.Tone) {
	tone := terminal.Good
	switch e.Action {
	case watch.Noticed:
		return "", terminal.Normal
	case watch.Reconnected:
		return "the API server answers again", terminal.Good
	case watch.Disconnected:
		return "the API server does not answer: " + words(e.Err), terminal.Bad
	case watch.Resumed:
		return "upgrades go on", terminal.Good
	case watch.Halted:
		return "no gateway is upgraded any more, since " + line(e.Namespace) + "/" + line(e.Pod) + ": " + words(e.Err), terminal.Bad
	case watch.Failed, watch.Refused, watch.Denied:
		tone = terminal.Bad
	case watch.Disabled:
		tone = terminal.Normal
	}
	return who(e) + eventWords(e), tone
}

// eventWords says what happened to a pod.
func eventWords(e watch.Event) string {
	text := string(e.Action)
	var details []string
	for _, what := range []string{e.Container, e.Request, e.Identity} {
		if what != "" {
			details = append(details, line(what))
		}
	}
	if e.Elapsed > 0 {
		details = append(details, fmt.Sprintf("%.1fs", e.Elapsed.Seconds()))
	}
	if !e.NotAfter.IsZero() {
		details = append(details, "valid for "+duration.HumanDuration(e.NotAfter.Sub(e.Time)))
	}
	if e.Covered != nil {
		details = append(details, e.Covered.String())
	}
	if len(e.Settings) > 0 {
		details = append(details, line(e.Settings.String()))
	}
	if e.Err != nil {
		text += ": " + words(e.Err)
		details = nil
		if e.Request != "" {
			details = append(details, line(e.Request))
		}
		if !e.Again.IsZero() {
			details = append(details, "again in "+duration.HumanDuration(max(e.Again.Sub(e.Time), time.Second)))
		}
	}
	if len(details) > 0 {
		text += " (" + strings.Join(details, ", ") + ")"
	}
	return text
}

// watchItem is the machine-readable form of an event.
type watchItem struct {
	Time      time.Time    `json:"time"`
	Namespace string       `json:"namespace,omitempty"`
	Pod       string       `json:"pod,omitempty"`
	Action    watch.Action `json:"action"`
	Container string       `json:"container,omitempty"`
	// Request is what a signer has answered, and Identity whom the certificate names.
	Request  string `json:"request,omitempty"`
	Identity string `json:"identity,omitempty"`
	// Seconds is how long it took.
	Seconds  float64   `json:"seconds,omitempty"`
	NotAfter time.Time `json:"certificateNotAfter,omitzero"`
	// Added and Removed are what a refresh has changed.
	Added   []survey.Part `json:"added,omitempty"`
	Removed []survey.Part `json:"removed,omitempty"`
	// Settings are what was changed.
	Settings []settingItem `json:"settings,omitempty"`
	itemEnd
	// Again is when it is tried again.
	Again time.Time `json:"again,omitzero"`
}

// settingItem is a setting that was declared.
type settingItem struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`
}

func eventJSON(e watch.Event) string {
	item := watchItem{Time: e.Time.UTC(), Namespace: e.Namespace, Pod: e.Pod, Action: e.Action, Container: e.Container, Request: e.Request, Identity: e.Identity,
		Seconds: e.Elapsed.Seconds(), NotAfter: e.NotAfter, itemEnd: itemEnd{Warnings: e.Warnings}, Again: e.Again.UTC()}
	if c := e.Covered; c != nil {
		item.Added, item.Removed = c.Added, c.Removed
	}
	for _, v := range e.Settings {
		item.Settings = append(item.Settings, settingItem{v.Name, v.Text, v.From})
	}
	if e.Err != nil {
		item.Error, item.Hint = words(e.Err), line(advice(e.Err))
	}
	text, err := json.Marshal(item)
	if err != nil {
		// Times outside of the years 0 to 9999 are all that cannot be encoded.
		text, _ = json.Marshal(watchItem{Namespace: e.Namespace, Pod: e.Pod, Action: e.Action, itemEnd: itemEnd{Error: err.Error()}})
	}
	return string(terminal.CleanJSON(text)) + "\n"
}
