package terminal

import (
	"bytes"
	"os"
	"testing"
)

func getenv(pairs map[string]string) func(string) string {
	return func(key string) string { return pairs[key] }
}

func TestNoColourInAPipeOrBuffer(t *testing.T) {
	_, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	env := getenv(map[string]string{"TERM": "xterm-256color", "COLORTERM": "truecolor", "CLICOLOR_FORCE": "1"})
	for name, style := range map[string]*Style{"pipe": For(w, env), "buffer": For(&bytes.Buffer{}, env)} {
		if style.Terminal() || style.Paint(Bad, "x") != "x" || style.PaintName("p", "x") != "x" {
			t.Errorf("%s is taken for a terminal", name)
		}
	}
}
