package flags

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

type colour string

// options have a flag of each kind.
type options struct {
	Colour  colour
	Dry     colour
	Timeout time.Duration
	Since   time.Duration
	Lines   int64
	Ports   []int
	Even    int
	Yes     bool
	File    string
	Dir     string
	Text    string
}

func (o *options) register(f *pflag.FlagSet) {
	Choice(f, &o.Colour, "colour", "c", "", "the paint (default: {} by chance)", Words[colour]("red", "blue"))
	Choice(f, &o.Dry, "dry", "", "", "what happens", []Word[colour]{{Text: "none"}, {Value: "client", Meaning: "only look"}, {Value: "server"}})
	Duration(f, &o.Timeout, "timeout", time.Minute, Positive, "how long")
	Duration(f, &o.Since, "since", 0, NotNegative, "from when on")
	Int(f, &o.Lines, "lines", 10, -1, "how many")
	Repeated(f, &o.Ports, "port", "ports", "", "where", Commas, strconv.Atoi)
	Parsed(f, &o.Even, "even", "int", "2", "a number", strconv.Atoi)
	f.BoolVar(&o.Yes, "yes", false, "yes")
	f.StringVar(&o.File, "file", "", "a file")
	f.StringVar(&o.Dir, "dir", "", "a directory")
	f.StringVar(&o.Text, "text", "", "a text")
	Files(f, "file")
	Dirs(f, "dir")
}

// registered returns options and the set of their flags.
func registered() (*options, *pflag.FlagSet) {
	o, f := &options{}, pflag.NewFlagSet("", pflag.ContinueOnError)
	o.register(f)
	return o, f
}

func TestParses(t *testing.T) {
	defaults := options{Timeout: time.Minute, Lines: 10, Even: 2}
	for line, want := range map[string]func(*options){
		"":                                     func(*options) {},
		"-c red --dry=server --dry none":       func(o *options) { o.Colour = "red" },
		"--colour= --dry=client":               func(o *options) { o.Dry = "client" },
		"--timeout=5s --since=0 --lines=-1":    func(o *options) { o.Timeout, o.Lines = 5*time.Second, -1 },
		"--port=1,2 --port=3 --even=4 --yes":   func(o *options) { o.Ports, o.Even, o.Yes = []int{1, 2, 3}, 4, true },
		"--since=1h --file=a --dir=b --text=c": func(o *options) { o.Since, o.File, o.Dir, o.Text = time.Hour, "a", "b", "c" },
	} {
		expected := defaults
		want(&expected)
		got, f := registered()
		err := f.Parse(strings.Fields(line))
		if diff := cmp.Diff(&expected, got); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", line, err, diff)
		}
	}
}

func TestRefuses(t *testing.T) {
	type refusal struct{ Error, Hint string }
	const duration = "write it like 90s, 5m or 1h30m"
	got := map[string]refusal{}
	want := map[string]refusal{
		"--colour=green":   {`--colour "green" is unknown`, "use red or blue"},
		"-cgreen":          {`--colour "green" is unknown`, "use red or blue"},
		"--dry=":           {`--dry "" is unknown`, "use none, client or server"},
		"--timeout=soon":   {`--timeout "soon" is not a duration`, duration},
		"--timeout=0s":     {`--timeout "0s" is not positive`, ""},
		"--since=-1s":      {`--since "-1s" is negative`, ""},
		"--lines=many":     {`--lines "many" is not a number`, ""},
		"--lines=-2":       {`--lines "-2" is below -1`, ""},
		"--port=1,two":     {`--port: strconv.Atoi: parsing "two": invalid syntax`, ""},
		"--yes=maybe":      {`--yes "maybe" is neither true nor false`, ""},
		"--no-such-flag=1": {`unknown flag: --no-such-flag`, ""},
	}
	for line := range want {
		_, f := registered()
		err := Error(nil, f.Parse([]string{line}))
		got[line] = refusal{err.Error(), api.Hint(err)}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestHelps(t *testing.T) {
	_, f := registered()
	const want = `  -c, --colour string      the paint (default: red or blue by chance)
      --dir string         a directory
      --dry string         what happens: none, client (only look) or server (default "none")
      --even int           a number (default 2)
      --file string        a file
      --lines int          how many (default 10)
      --port ports         where
      --since duration     from when on
      --text string        a text
      --timeout duration   how long (default 1m0s)
      --yes                yes
`
	if diff := cmp.Diff(want, f.FlagUsages()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestCompletes(t *testing.T) {
	type offer struct {
		Words     []cobra.Completion
		Directive cobra.ShellCompDirective
	}
	const nothing, ordered = cobra.ShellCompDirectiveNoFileComp, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	want := map[string]offer{
		"colour": {[]cobra.Completion{"red", "blue"}, ordered}, "dry": {[]cobra.Completion{"none", "client\tonly look", "server"}, ordered},
		"timeout": {nil, nothing}, "since": {nil, nothing}, "lines": {nil, nothing}, "port": {nil, nothing}, "even": {nil, nothing},
		"yes": {nil, nothing}, "text": {nil, nothing},
	}
	_, f := registered()
	got := map[string]offer{}
	f.VisitAll(func(f *pflag.Flag) {
		if complete := Complete(f); complete != nil {
			words, directive := complete(nil, nil, "")
			got[f.Name] = offer{words, directive}
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDefaultThatIsRefused(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a default that cannot be parsed is accepted")
		}
	}()
	var n int
	Parsed(pflag.NewFlagSet("", pflag.ContinueOnError), &n, "n", "int", "many", "", strconv.Atoi)
}
