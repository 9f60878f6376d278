//go:build linux

package handoff

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
)

func TestReplies(t *testing.T) {
	for _, r := range []reply{
		{kind: replyHidden}, {kind: replyReady}, {kind: replyReady, number: maxConfinement}, {kind: replyApplied, number: 1}, {kind: replyApplied, number: 1<<64 - 1},
		{kind: replyRefused, number: 7, words: "the trust bundle holds no certificate"},
	} {
		if got, err := parseReply(r.encode()); err != nil || got != r {
			t.Errorf("%+v came out as %+v, %v", r, got, err)
		}
	}
	long := reply{kind: replyRefused, words: strings.Repeat("x", 2*maxReply)}
	if got, err := parseReply(long.encode()); err != nil || len(got.words) != maxReply-replyHeader {
		t.Errorf("a long refusal: %d words, %v", len(got.words), err)
	}
}

func TestBadReplies(t *testing.T) {
	applied := reply{kind: replyApplied, number: 3}.encode()
	for name, b := range map[string][]byte{
		"empty": {}, "short": applied[:8], "with a tail": append(bytes.Clone(applied), 'x'),
		"unknown": append([]byte{'x'}, applied[1:]...), "hidden with a number": append([]byte{replyHidden}, applied[1:]...),
		"ready with a large number": reply{kind: replyReady, number: maxConfinement + 1}.encode(),
		"too long":                  append(reply{kind: replyRefused}.encode(), make([]byte, maxReply)...),
	} {
		if r, err := parseReply(b); err == nil {
			t.Errorf("%s: taken as %+v", name, r)
		}
	}
	r, err := parseReply(reply{kind: replyRefused, words: " a\n\x1b[2Jb\u202e\xff "}.encode())
	if err != nil || r.words != "a ?[2Jb??" {
		t.Errorf("words are %q, %v", r.words, err)
	}
}

// FuzzParseReply: whatever a worker says, the supervisor gets a reply of a known
// kind with one printable line, or an error.
func FuzzParseReply(f *testing.F) {
	for _, r := range []reply{{kind: replyReady}, {kind: replyApplied, number: 1}, {kind: replyRefused, number: 1, words: "no\x1b"}} {
		f.Add(r.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReply(b)
		if err != nil {
			if r != (reply{}) {
				t.Errorf("%q: an error, and %+v", b, r)
			}
			return
		}
		if len(b) > maxReply || strings.IndexByte("hrke", r.kind) < 0 || r.words != "" && r.kind != replyRefused ||
			r.kind == replyHidden && r.number != 0 || r.kind == replyReady && r.number > maxConfinement {
			t.Errorf("%q is %+v", b, r)
		}
		if strings.ContainsFunc(r.words, func(c rune) bool { return !unicode.IsPrint(c) }) || len(r.words) > maxReply {
			t.Errorf("%q has words %q", b, r.words)
		}
		// What was understood is said the same way.
		if again, err := parseReply(r.encode()); err != nil || again != r {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}
