package terminal

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Clean returns text with everything escaped that is not a printable character or an
// ordinary space: control characters, by which foreign text could take over a terminal
// or forge further lines, characters that change the direction of writing, and bytes
// that are not UTF-8.
func Clean(text string) string {
	if strings.IndexFunc(text, unprintable) < 0 {
		return text
	}
	var clean strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&clean, `\x%02x`, text[0])
		case unprintable(r):
			quoted := strconv.QuoteRune(r)
			clean.WriteString(quoted[1 : len(quoted)-1])
		default:
			clean.WriteRune(r)
		}
		text = text[size:]
	}
	return clean.String()
}

// CleanJSON returns JSON text with its unprintable characters in JSON's own escapes. The
// value stays the same: valid JSON has such characters in strings and, as line ends and
// tabs, between its parts alone.
func CleanJSON(text []byte) []byte { return escapeJSON(text, `\`) }

// VisibleJSON returns JSON text in which these escapes are part of the strings, as [Clean] has it: what is made
// of them has no unprintable characters, whatever its form.
func VisibleJSON(text []byte) []byte { return escapeJSON(text, `\\`) }

// escapeJSON returns JSON text with unprintable characters as escapes that begin with a backslash.
func escapeJSON(text []byte, backslash string) []byte {
	clean := make([]byte, 0, len(text))
	for _, r := range string(text) {
		switch {
		case r == '\n' || r == '\t' || r == '\r' || !unprintable(r):
			clean = utf8.AppendRune(clean, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			clean = fmt.Appendf(clean, `%[1]su%04[2]x%[1]su%04[3]x`, backslash, high, low)
		default:
			clean = fmt.Appendf(clean, `%su%04x`, backslash, r)
		}
	}
	return clean
}

// unprintable is true for the replacement character, too: strings.IndexFunc passes it
// for bytes that are not UTF-8.
func unprintable(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
