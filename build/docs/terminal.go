package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// look is how a character is shown: classes of the picture's style sheet.
type look struct {
	colour    string // "" or "c0" to "c15"
	bold, dim bool
}

type cell struct {
	r    rune
	look look
}

// screen is a terminal of a certain width that forgets nothing: rows are numbered
// from the first that was ever written.
type screen struct {
	width    int
	rows     [][]cell
	row, col int
	look     look
	rest     string // the beginning of a sequence whose end is to come
}

// write shows text, and fails at what this terminal does not know.
func (s *screen) write(text string) error {
	text = s.rest + text
	s.rest = ""
	for text != "" {
		if text[0] == '\x1b' {
			n, err := s.escape(text)
			if err != nil {
				return err
			}
			if n == 0 {
				s.rest = text
				return nil
			}
			text = text[n:]
			continue
		}
		r := []rune(text)[0]
		text = text[len(string(r)):]
		switch {
		case r == '\n':
			s.row, s.col = s.row+1, 0
		case r == '\r':
			s.col = 0
		case r == '\b':
			s.col = max(0, s.col-1)
		case r == '\t':
			s.col = min(s.width-1, (s.col/8+1)*8)
		case unicode.IsPrint(r):
			columns := 1
			if wide(r) {
				columns = 2
			}
			if s.col+columns > s.width {
				s.row, s.col = s.row+1, 0
			}
			s.put(r)
			if columns == 2 {
				s.put(0)
			}
		default:
			return fmt.Errorf("control character %q", r)
		}
	}
	return nil
}

// wide reports whether r takes two columns: of all such characters (Unicode, annex
// 11) the commands write pictographs alone.
func wide(r rune) bool { return r >= 0x1f300 && r <= 0x1faff }

// put stores r, or 0 for the second column of a wide character.
func (s *screen) put(r rune) {
	for len(s.rows) <= s.row {
		s.rows = append(s.rows, nil)
	}
	row := s.rows[s.row]
	for len(row) <= s.col {
		row = append(row, cell{r: ' '})
	}
	row[s.col] = cell{r, s.look}
	s.rows[s.row] = row
	s.col++
}

// escape does what the sequence at the beginning of text asks for, and returns its
// length, or 0 if its end is missing (ECMA-48, section 5.4).
func (s *screen) escape(text string) (int, error) {
	if len(text) < 2 {
		return 0, nil
	}
	if text[1] != '[' {
		return 0, fmt.Errorf("sequence %.10q", text)
	}
	end := strings.IndexFunc(text[2:], func(r rune) bool { return r >= '@' && r <= '~' })
	if end < 0 {
		return 0, nil
	}
	parameters, final := text[2:2+end], text[2+end]
	n := 1
	if first, _, _ := strings.Cut(parameters, ";"); first != "" {
		n, _ = strconv.Atoi(first)
	}
	switch {
	case final == 'm':
		if err := s.paint(parameters); err != nil {
			return 0, err
		}
	case final == 'K' && (parameters == "" || parameters == "0"):
		if s.row < len(s.rows) && s.col < len(s.rows[s.row]) {
			s.rows[s.row] = s.rows[s.row][:s.col]
		}
	case final == 'A':
		s.row = max(0, s.row-n)
	default:
		return 0, fmt.Errorf("sequence %q", text[:3+end])
	}
	return 3 + end, nil
}

// paint changes how characters are shown from here on.
func (s *screen) paint(parameters string) error {
	for _, p := range strings.Split(parameters, ";") {
		n, err := strconv.Atoi(p)
		if p == "" {
			n, err = 0, nil
		}
		switch {
		case err != nil:
			return fmt.Errorf("colour %q", parameters)
		case n == 0:
			s.look = look{}
		case n == 1:
			s.look.bold = true
		case n == 2:
			s.look.dim = true
		case n == 22:
			s.look.bold, s.look.dim = false, false
		case n >= 30 && n <= 37:
			s.look.colour = fmt.Sprintf("c%d", n-30)
		case n == 39:
			s.look.colour = ""
		case n >= 90 && n <= 97:
			s.look.colour = fmt.Sprintf("c%d", n-90+8)
		default:
			return fmt.Errorf("colour %q", parameters)
		}
	}
	return nil
}
