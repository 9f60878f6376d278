package api

import (
	"strings"
	"unicode"
)

// OneLine returns text as one line of printable characters.
func OneLine(text string) string {
	clean := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, text)
	return strings.TrimSpace(clean)
}
