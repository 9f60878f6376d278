package lists

import (
	"slices"
	"testing"
)

func TestWords(t *testing.T) {
	words := []string{"a", "b", "c"}
	for most, want := range []string{"and 3 more", "a, and 2 more", "a, b, and 1 more", "a, b, c", "a, b, c"} {
		if got := Words(words, most); got != want {
			t.Errorf("of %d: %q, want %q", most, got, want)
		}
	}
	if !slices.Equal(words, []string{"a", "b", "c"}) {
		t.Errorf("the list has become %v", words)
	}
}
