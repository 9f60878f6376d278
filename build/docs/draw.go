package main

import (
	"fmt"
	"html"
	"strings"
	"time"
)

// Measures of the picture, in its own units.
const (
	charWidth  = 8.4
	lineHeight = 19
	fontSize   = 14
	margin     = 16
	titleBar   = 30
)

// Timing: nobody waits for a computer in a picture, nor for the picture's end.
const (
	maxPause = 1500 * time.Millisecond
	rest     = 8 * time.Second
)

// style is the whole style sheet but the animation. Without that, as where motion
// is not wanted, the picture shows the end.
const style = `svg{font:%dpx ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
text{fill:#d5dbe3;white-space:pre}
.h{visibility:hidden}
.b{font-weight:bold}.d{fill:#8b96a5}
.c1,.c9{fill:#ff7b72}.c2,.c10{fill:#56d364}.c3,.c11{fill:#e3b341}.c4,.c12{fill:#79c0ff}.c5,.c13{fill:#d2a8ff}.c6,.c14{fill:#56d4dd}.c8{fill:#8b96a5}
`

// version is a row of the terminal as it looked for a while.
type version struct {
	row      int
	from, to time.Duration // to is 0 if it stays until the end
	cells    []cell
}

// drawCast returns an animated picture of a recording. It refers to nothing outside.
func drawCast(text []byte) ([]byte, error) {
	c, err := parseCast(text)
	if err != nil {
		return nil, err
	}
	versions, scrolls, length, err := play(c)
	if err != nil {
		return nil, err
	}
	length += rest

	width := int(float64(c.Width)*charWidth) + 2*margin
	height := c.Height*lineHeight + titleBar + 2*margin
	percent := func(at time.Duration) string {
		return fmt.Sprintf("%.3f%%", 100*at.Seconds()/length.Seconds())
	}
	var out, css strings.Builder
	var body strings.Builder
	for i, v := range versions {
		class := "h "
		switch {
		case v.to == 0:
			class = ""
			fmt.Fprintf(&css, "@keyframes k%d{0%%{visibility:hidden}%s,to{visibility:visible}}\n", i, percent(v.from))
		default:
			fmt.Fprintf(&css, "@keyframes k%d{0%%{visibility:hidden}%s{visibility:visible}%s,to{visibility:hidden}}\n", i, percent(v.from), percent(v.to))
		}
		fmt.Fprintf(&body, `<g class="%sa" style="animation-name:k%d">`, class, i)
		drawRow(&body, v)
		body.WriteString("</g>\n")
	}
	last := 0
	css.WriteString("@keyframes scroll{0%{transform:none}")
	for _, s := range scrolls {
		fmt.Fprintf(&css, "%s{transform:translateY(-%dpx)}", percent(s.at), s.rows*lineHeight)
		last = s.rows
	}
	fmt.Fprintf(&css, "to{transform:translateY(-%dpx)}}\n", last*lineHeight)
	fmt.Fprintf(&css, ".s{transform:translateY(-%dpx)}\n", last*lineHeight)
	fmt.Fprintf(&css, ".a,.s{animation-duration:%.3fs;animation-timing-function:step-end;animation-iteration-count:infinite}\n.s{animation-name:scroll}\n", length.Seconds())
	css.WriteString("@media (prefers-reduced-motion:reduce){.a,.s{animation:none}}\n")

	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" xml:space="preserve">`+"\n", width, height, width, height)
	fmt.Fprintf(&out, "<title>%s</title>\n<style>\n%s%s</style>\n", html.EscapeString(c.Title), fmt.Sprintf(style, fontSize), css.String())
	fmt.Fprintf(&out, `<rect width="%d" height="%d" rx="8" fill="#0f1620"/>`+"\n", width, height)
	for i, colour := range []string{"#ff5f57", "#febc2e", "#28c840"} {
		fmt.Fprintf(&out, `<circle cx="%d" cy="%d" r="6" fill="%s"/>`, margin+6+i*20, titleBar/2+3, colour)
	}
	fmt.Fprintf(&out, "\n"+`<svg x="%d" y="%d" width="%d" height="%d"><g class="s">`+"\n", margin, titleBar+margin/2, width-2*margin, c.Height*lineHeight+4)
	out.WriteString(body.String())
	out.WriteString("</g></svg>\n</svg>\n")
	return []byte(out.String()), nil
}

// drawRow writes the characters of a row, those that look alike together. Their
// width is given, so that columns meet in every font.
func drawRow(out *strings.Builder, v version) {
	y := v.row*lineHeight + fontSize
	for start := 0; start < len(v.cells); {
		end := start
		for end < len(v.cells) && v.cells[end].look == v.cells[start].look {
			end++
		}
		var text strings.Builder
		for _, c := range v.cells[start:end] {
			if c.r != 0 {
				text.WriteRune(c.r)
			}
		}
		if strings.TrimSpace(text.String()) != "" {
			l := v.cells[start].look
			var classes []string
			if l.colour != "" {
				classes = append(classes, l.colour)
			}
			if l.bold {
				classes = append(classes, "b")
			}
			if l.dim {
				classes = append(classes, "d")
			}
			class := ""
			if len(classes) > 0 {
				class = fmt.Sprintf(` class="%s"`, strings.Join(classes, " "))
			}
			fmt.Fprintf(out, `<text x="%.1f" y="%d" textLength="%.1f"%s>%s</text>`,
				float64(start)*charWidth, y, float64(end-start)*charWidth, class, html.EscapeString(text.String()))
		}
		start = end
	}
}

// scroll says that from a time on so many rows have left at the top.
type scroll struct {
	at   time.Duration
	rows int
}

// play runs a recording, with its pauses cut short, and returns how each row looked
// when, and the time of the last change.
func play(c *cast) (versions []version, scrolls []scroll, end time.Duration, err error) {
	s := &screen{width: c.Width}
	current := map[int]int{} // the version of each row
	var was time.Duration
	for i, e := range c.events {
		end += min(e.at-was, maxPause)
		was = e.at
		if err := s.write(e.text); err != nil {
			return nil, nil, 0, fmt.Errorf("event %d: %w", i+1, err)
		}
		for row, cells := range s.rows {
			n, seen := current[row]
			if seen && same(versions[n].cells, cells) || !seen && len(cells) == 0 {
				continue
			}
			if seen {
				versions[n].to = end
			}
			current[row] = len(versions)
			versions = append(versions, version{row: row, from: end, cells: append([]cell(nil), cells...)})
		}
		gone := max(s.row, len(s.rows)-1) - c.Height + 1
		if gone > 0 && (len(scrolls) == 0 || scrolls[len(scrolls)-1].rows < gone) {
			scrolls = append(scrolls, scroll{end, gone})
		}
	}
	// What was there for no time at all would be a keyframe too much.
	kept := versions[:0]
	for _, v := range versions {
		if v.to == 0 || v.to > v.from {
			kept = append(kept, v)
		}
	}
	return kept, scrolls, end, nil
}

func same(a, b []cell) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
