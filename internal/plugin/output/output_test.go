package output

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// pod is like an item of a status.
type pod struct {
	Name  string            `json:"name"`
	Sent  uint64            `json:"sent"`
	Limit string            `json:"limit,omitempty"`
	Since *time.Time        `json:"since,omitempty"`
	IPs   []string          `json:"ips,omitempty"`
	Marks map[string]string `json:"marks,omitempty"`
	Ready bool              `json:"ready"`
}

type list struct {
	Kind  string `json:"kind"`
	Items []pod  `json:"items"`
}

func some() list {
	return list{Kind: "List", Items: []pod{
		{Name: "web", Sent: 12_345_678, Limit: "64Mi", IPs: []string{"10.0.0.1", "fd00::1"}, Ready: true},
		{Name: "db", Sent: 9, Limit: "1Gi", Since: new(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))},
		{Name: "bad\x1b[2J", Sent: 1 << 53, Marks: map[string]string{"a/b": "aGk="}},
	}}
}

func every() []string {
	return slices.Concat([]string{"wide", "name", JSON, YAML, KYAML}, Templates(), Columns())
}

// printed is what a format makes of some, by the way of a command line.
func printed(format string, o Options) (string, error) {
	parsed, err := Parse(format, every())
	if err != nil {
		return "", err
	}
	print, err := New(parsed, o)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = print(&text, some())
	return text.String(), err
}

// TestForeignText: no format hands on what could take over a terminal or turn its lines around, and none fails for it.
func TestForeignText(t *testing.T) {
	text := "a\x1b[2Jb\x7fc\u009bd\u202ee\u2028f\ufeffg\U000e0041"
	for _, format := range []string{JSON, YAML, KYAML, jsonPath + "={.items[*].name} {.items[*].marks}", jsonPathAsJSON + "={.items[*]}",
		goTemplate + "={{range .items}}{{.name}} {{.marks}}{{end}}", columns + "=NAME:.name,MARKS:.marks"} {
		var out strings.Builder
		print := must.Get(New(format, Options{}))(t)
		must.Do(t, print(&out, list{Items: []pod{{Name: text, Marks: map[string]string{text: text}}}}))
		if bad := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); bad >= 0 {
			t.Errorf("%s prints %+q", format, out.String())
		}
	}
}

func TestPrints(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		must.Do(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for format, want := range map[string]string{
		`jsonpath={.kind}`:          "List",
		`jsonpath={.items[*].name}`: `web db bad\x1b[2J`,
		// Large numbers are not written as 1.2345678e+07.
		`jsonpath={range .items[*]}{.name}={.sent}{"\n"}{end}`:              "web=12345678\ndb=9\nbad\\x1b[2J=9007199254740992\n",
		`jsonpath={.items[?(@.ready==true)].name}`:                          "web",
		`jsonpath={.items[?(@.sent>10)].name}`:                              `web bad\x1b[2J`,
		`jsonpath={.nothing}`:                                               "",
		`jsonpath-as-json={.items[*].sent}`:                                 "[\n    12345678,\n    9,\n    9007199254740992\n]\n",
		`jsonpath-file=` + file("path", "{.items[1].since}\n"):              "2030-01-02T03:04:05Z\n",
		`go-template={{range .items}}{{.name}} {{.nothing}},{{end}}`:        `web <no value>,db <no value>,bad\x1b[2J <no value>,`,
		`go-template-file=` + file("template", "{{len .items}} pods\n"):     "3 pods\n",
		`go-template={{exists . "items" 0 "ips" 1}}`:                        "true",
		`go-template={{exists . "items" 1 "ips"}}`:                          "false",
		`go-template={{exists . "items" 7}}{{exists . "kind" "x"}}`:         "falsefalse",
		`go-template={{base64decode (index .items 2).marks}}`:               "error",
		`go-template={{base64decode (index (index .items 2).marks "a/b")}}`: "hi",
		`custom-columns=NAME:.name,IPS:.ips[*],SINCE:{.since},N:sent`: "" +
			"NAME         IPS                SINCE                  N\n" +
			"web          10.0.0.1,fd00::1   <none>                 12345678\n" +
			"db           <none>             2030-01-02T03:04:05Z   9\n" +
			"bad\\x1b[2J   <none>             <none>                 9007199254740992\n",
		`custom-columns-file=` + file("columns", "NAME  READY\n.name .ready\n"): "NAME         READY\nweb          true\ndb           false\nbad\\x1b[2J   false\n",
	} {
		got, err := printed(format, Options{})
		if want == "error" {
			if err == nil {
				t.Errorf("%s: %q", format, got)
			}
			continue
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", format, err, diff)
		}
	}
	got, err := printed("custom-columns=NAME:.name", Options{NoHeaders: true})
	if err != nil || got != "web\ndb\nbad\\x1b[2J\n" {
		t.Errorf("without headers: %q, %v", got, err)
	}
}

// TestPrintsKYAML: all strings are quoted, and what a terminal would obey is escaped.
func TestPrintsKYAML(t *testing.T) {
	print := must.Get(New(KYAML, Options{}))(t)
	var text strings.Builder
	must.Do(t, print(&text, some().Items[2]))
	want := "---\n{\n" + `  name: "bad\e[2J",
  sent: 9007199254740992,
  marks: {
    a/b: "aGk=",
  },
  ready: false,
}
`
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Error(diff)
	}
}

// TestPrintsOne: a value that is no list is one row.
func TestPrintsOne(t *testing.T) {
	print := must.Get(New("custom-columns=NAME:.name", Options{}))(t)
	var text strings.Builder
	must.Do(t, print(&text, pod{Name: "web"}))
	if text.String() != "NAME\nweb\n" {
		t.Errorf("%q", text.String())
	}
}

// The errors are those of kubectl v1.37.
func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, strconv.Itoa(len(text)))
		must.Do(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	large := file(strings.Repeat(" ", maxFile+1))
	const allowed = ", allowed formats are: custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,kyaml,name,wide,yaml"
	for format, want := range map[string]string{
		"xml":                          `unable to match a printer suitable for the output format "xml"` + allowed,
		"json=.x":                      `unable to match a printer suitable for the output format "json=.x"` + allowed,
		"":                             `unable to match a printer suitable for the output format ""` + allowed,
		"jsonpath":                     "template format specified but no template given",
		"jsonpath-file=":               "template format specified but no template given",
		"go-template=":                 "template format specified but no template given",
		"custom-columns":               "custom-columns format specified but no custom columns given",
		"jsonpath={.a[":                "error parsing jsonpath {.a[, unterminated array",
		"go-template={{.a":             "error parsing template {{.a, template: output:1: unclosed action",
		"jsonpath-file=/no/such":       "error reading --template /no/such, open /no/such: no such file or directory",
		"custom-columns-file=/no/such": "error reading template /no/such, open /no/such: no such file or directory",
		"jsonpath-file=" + large:       "error reading --template " + large + ", it is larger than 1048576 bytes",
		"custom-columns=NAME":          "unexpected custom-columns spec: NAME, expected <header>:<json-path-expr>",
		"custom-columns-file=" + file("NAME READY\n.name\n"): "number of headers (2) and field specifications (1) don't match",
		"custom-columns-file=" + file("NAME\n"):              "invalid template, missing spec line. Expected format is one line of space separated headers, one line of space separated column specs",
		"custom-columns=NAME:{.a}{.b}":                       "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'",
		"jsonpath={.items[9]}":                               `error executing jsonpath "{.items[9]}": array index out of bounds: index 9, length 3`,
		"go-template={{index .items 9}}": `error executing template "{{index .items 9}}": template: output:1:2: executing "output" at <index .items 9>: ` +
			"error calling index: index out of range: 9",
	} {
		if _, err := printed(format, Options{}); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", format, err, want)
		}
	}
}

func TestSorts(t *testing.T) {
	for field, want := range map[string]string{
		"":        "web db bad",
		".name":   "bad db web",
		"{.sent}": "db web bad",
		"sent":    "db web bad",
		// Quantities by value, and what has none first.
		".limit":  "bad web db",
		".since":  "web bad db",
		".ips[0]": "db bad web",
	} {
		items := some().Items
		if err := Sort(items, field); err != nil {
			t.Errorf("%s: %v", field, err)
			continue
		}
		var names []string
		for _, item := range items {
			names = append(names, strings.TrimSuffix(item.Name, "\x1b[2J"))
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
	for field, want := range map[string]string{
		".nothing": `couldn't find any field with path "{.nothing}" in the list of objects`,
		".ready":   "sorting by {.ready}: unsortable type: bool",
		".marks":   "",
	} {
		err := Sort(some().Items, field)
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, want %s", field, err, want)
		}
	}
	if err := Sort([]pod{}, ".nothing"); err != nil {
		t.Errorf("nothing to sort: %v", err)
	}
	if _, err := ParseSort("a}b"); err == nil {
		t.Error("it is no path")
	}
}
