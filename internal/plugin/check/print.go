package check

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"unicode/utf8"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// shownObjects is how many objects a line names.
const shownObjects = 3

// PrintOptions say how a report is printed.
type PrintOptions struct {
	// Short omits OK and Skipped.
	Short bool
	// ASCII replaces the signs √, ‼ and ×.
	ASCII bool
}

// ASCII reports whether the environment, read with getenv, has another character set
// than UTF-8. LC_ALL takes precedence over LC_CTYPE, and that over LANG (POSIX). On
// Windows only consoles that name themselves show all characters.
func ASCII(getenv func(string) string) bool { return ascii(runtime.GOOS, getenv) }

func ascii(goos string, getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToLower(getenv(name)); value != "" {
			return !strings.Contains(value, "utf-8") && !strings.Contains(value, "utf8")
		}
	}
	if goos == "windows" {
		return getenv("WT_SESSION") == ""
	}
	return true
}

// printer writes a report in one style.
type printer struct {
	out   strings.Builder
	style *terminal.Style
	PrintOptions
	// commands that were printed: several checks may have the same one.
	commands map[string]bool
}

// Print writes r for people.
func (r *Report) Print(w io.Writer, style *terminal.Style, o PrintOptions) error {
	p := &printer{style: style, PrintOptions: o, commands: map[string]bool{}}
	var last Category
	for i := range r.Checks {
		item := &r.Checks[i]
		if o.Short && (item.Result == OK || item.Result == Skipped) {
			continue
		}
		if item.Category != last {
			if last != "" {
				p.out.WriteByte('\n')
			}
			last = item.Category
			p.out.WriteString(style.Paint(terminal.Strong, string(last)) + "\n" + strings.Repeat("-", len(last)) + "\n")
		}
		p.item(item)
	}
	if last != "" {
		p.out.WriteByte('\n')
	}
	p.summary(r)
	_, err := io.WriteString(w, p.out.String())
	return err
}

func (p *printer) sign(result Result) string {
	signs := map[Result][2]string{OK: {"√", "ok"}, Skipped: {"-", "--"}, Warning: {"‼", "!!"}, Error: {"×", "xx"}}
	tones := map[Result]terminal.Tone{OK: terminal.Good, Skipped: terminal.Dim, Warning: terminal.Caution, Error: terminal.Bad}
	sign := signs[result][0]
	if p.ASCII {
		sign = signs[result][1]
	}
	return p.style.Paint(tones[result], sign)
}

func (p *printer) item(item *Item) {
	p.out.WriteString(p.sign(item.Result) + " " + item.Description)
	objects := clean(objectWords(item.Objects))
	detail := clean(item.Detail)
	if item.Result == OK || item.Result == Skipped {
		words := strings.TrimSpace(detail + " " + objects)
		if item.Result == Skipped && objects != "" {
			words = objects + ": " + detail
		}
		if words != "" {
			p.out.WriteString(": " + p.style.Paint(terminal.Dim, p.plain(words)))
		}
		p.out.WriteByte('\n')
		return
	}
	p.out.WriteByte('\n')
	if objects != "" {
		detail = objects + ": " + detail
	}
	p.out.WriteString("    " + p.plain(detail) + "\n")
	p.advice(item)
}

// advice prints the hint and the command. A command of several lines is not indented, or
// a shell would not find the end of its here-document.
func (p *printer) advice(item *Item) {
	hint := clean(item.Hint)
	switch {
	case item.Command == "" && hint == "":
		return
	case item.Command != "" && p.commands[item.Command]:
		p.out.WriteString("    hint: the same command as above\n")
		return
	case item.Command != "" && hint != "":
		hint += ":"
	}
	p.commands[item.Command] = true
	if !strings.Contains(item.Command, "\n") {
		p.out.WriteString("    hint: " + strings.TrimSpace(p.plain(hint)+" "+clean(item.Command)) + "\n")
		return
	}
	if hint == "" {
		hint = "run this:"
	}
	p.out.WriteString("    hint: " + p.plain(hint) + "\n")
	for text := range strings.SplitSeq(item.Command, "\n") {
		p.out.WriteString(terminal.Clean(text) + "\n")
	}
}

func (p *printer) summary(r *Report) {
	errors, warnings := r.Count(Error), r.Count(Warning)
	rest := fmt.Sprintf("%d ok, %d skipped", r.Count(OK), r.Count(Skipped))
	switch {
	case errors > 0:
		fmt.Fprintf(&p.out, "%s %s, %s, %s\n", p.sign(Error), terminal.Plural(errors, "error"), terminal.Plural(warnings, "warning"), rest)
	case warnings > 0:
		fmt.Fprintf(&p.out, "%s no errors, %s, %s\n", p.sign(Warning), terminal.Plural(warnings, "warning"), rest)
	default:
		fmt.Fprintf(&p.out, "%s no problems, %s\n", p.sign(OK), rest)
	}
}

// plain replaces all but ASCII where nothing else may be printed.
func (p *printer) plain(text string) string {
	if !p.ASCII {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return '?'
		}
		return r
	}, text)
}

func objectWords(objects []string) string {
	if len(objects) > shownObjects {
		return fmt.Sprintf("%s and %d more", strings.Join(objects[:shownObjects], ", "), len(objects)-shownObjects)
	}
	return strings.Join(objects, ", ")
}

// clean makes one harmless line of untrusted text.
func clean(text string) string { return terminal.Clean(strings.Join(strings.Fields(text), " ")) }
