package terminal

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"spiffe://td/ns/a/sa/b":    "spiffe://td/ns/a/sa/b",
		"größer, 大きい":              "größer, 大きい",
		"\x1b[2Jgone":              `\x1b[2Jgone`,
		"\x1b]0;title\a":           `\x1b]0;title\a`,
		"one\ntwo\r\ttab":          `one\ntwo\r\ttab`,
		"c1 \u009b31m":             `c1 \u009b31m`,
		"raw c1 \x9b31m":           `raw c1 \x9b31m`,
		"del\x7f nul\x00":          `del\x7f nul\x00`,
		"right\u202eto left":       `right\u202eto left`,
		"hidden\u200b\ufeff\u2066": `hidden\u200b\ufeff\u2066`,
		"cut \xe5\xa4":             `cut \xe5\xa4`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func harmless(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Fatalf("%q is no UTF-8", text)
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			t.Fatalf("%q holds %q", text, r)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[2J\u009b31m\x9b\u202e")
	f.Fuzz(func(t *testing.T, in string) {
		out := Clean(in)
		harmless(t, out)
		if Clean(out) != out {
			t.Fatalf("%q is not stable", out)
		}
	})
}

func FuzzCleanJSON(f *testing.F) {
	f.Add([]byte("{\"a\":\"\\u001b[2J \u009b31m \u202e \U000e0001 \x7f\"}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var before, after any
		if json.Unmarshal(in, &before) != nil {
			return
		}
		out := CleanJSON(in)
		if err := json.Unmarshal(out, &after); err != nil || !reflect.DeepEqual(before, after) {
			t.Fatalf("%q became %q (%v)", in, out, err)
		}
		harmless(t, strings.NewReplacer("\n", "", "\t", "", "\r", "").Replace(string(out)))
		if bytes.ContainsRune(out, 0x1b) {
			t.Fatal("escape character left")
		}
		var visible any
		if err := json.Unmarshal(VisibleJSON(in), &visible); err != nil {
			t.Fatalf("%q became %q (%v)", in, VisibleJSON(in), err)
		}
	})
}
