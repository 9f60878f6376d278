package main

import (
	"bytes"
	"encoding/xml"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

var update = flag.Bool("update", false, "draw docs/demo.svg anew")

const (
	castFile    = "../../docs/demo.cast"
	pictureFile = "../../docs/demo.svg"
	// A README's picture should be there before it is looked at.
	maxPicture = 200_000
)

// TestDemo draws the recording and compares it with the picture in the README.
func TestDemo(t *testing.T) {
	recording := must.Get(os.ReadFile(castFile))(t)
	drawn := must.Get(drawCast(recording))(t)
	if again, _ := drawCast(recording); !bytes.Equal(drawn, again) {
		t.Error("the same recording gives two pictures")
	}
	if *update {
		must.Do(t, os.WriteFile(pictureFile, drawn, 0o644))
	}
	kept := must.Get(os.ReadFile(pictureFile))(t)
	if !bytes.Equal(kept, drawn) {
		t.Errorf("%s is not what %s shows: run 'make docs'", pictureFile, castFile)
	}
	if len(drawn) > maxPicture {
		t.Errorf("the picture has %d bytes, more than %d", len(drawn), maxPicture)
	}
	checkPicture(t, drawn)
	checkWidth(t, recording)
}

// checkWidth fails if a line of the recording does not fit into its terminal: tables
// that are folded cannot be read.
func checkWidth(t *testing.T, recording []byte) {
	t.Helper()
	c := must.Get(parseCast(recording))(t)
	paper := &screen{width: 1000}
	for _, e := range c.events {
		must.Do(t, paper.write(e.text))
	}
	for i, row := range paper.rows {
		if len(row) > c.Width {
			t.Errorf("line %d of the recording has %d characters, more than the terminal's %d", i+1, len(row), c.Width)
		}
	}
}

// checkPicture reads the picture as XML, in which nothing may run or be fetched.
func checkPicture(t *testing.T, picture []byte) {
	t.Helper()
	var text strings.Builder
	for decoder := xml.NewDecoder(bytes.NewReader(picture)); ; {
		token, err := decoder.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.CharData:
			text.Write(token)
		case xml.StartElement:
			if name := token.Name.Local; name == "script" || name == "image" || name == "foreignObject" || name == "a" {
				t.Errorf("the picture has an element %s", name)
			}
			for _, a := range token.Attr {
				if strings.Contains(a.Name.Local, "href") || strings.Contains(a.Value, "url(") {
					t.Errorf("the picture refers to %s", a.Value)
				}
			}
		}
	}
	for _, refused := range []string{"url(", "@import", "@font-face"} {
		if strings.Contains(text.String(), refused) {
			t.Errorf("the picture has %q", refused)
		}
	}
	for _, wanted := range []string{"kubectl gateway enable pod/pod-01 pod/pod-02", "created (trust domain", "encrypted"} {
		if !strings.Contains(text.String(), wanted) {
			t.Errorf("the picture does not show %q", wanted)
		}
	}
}

func TestTerminal(t *testing.T) {
	for text, want := range map[string]string{
		"one\r\ntwo":                        "one|two",
		"a\rb":                              "b",
		"abcdef":                            "abcde|f",
		"abc\r\x1b[K":                       "",
		"a\nb\x1b[Ac":                       "ac|b",
		"\x1b[1;32mgreen\x1b[0m":            "green",
		"a\tb":                              "a   b",
		"abcd\U0001f512":                    "abcd|\U0001f512",
		"x\by":                              "y",
		"\x1b[2mdim\x1b[22m\x1b[31mr\x1b[m": "dimr",
	} {
		s := &screen{width: 5}
		// In pieces, as a terminal gets it.
		for i := range len(text) {
			if text[i] >= 0x80 {
				s = &screen{width: 5}
				must.Do(t, s.write(text))
				break
			}
			if err := s.write(text[i : i+1]); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		}
		var rows []string
		for _, row := range s.rows {
			var line strings.Builder
			for _, c := range row {
				if c.r != 0 {
					line.WriteRune(c.r)
				}
			}
			rows = append(rows, line.String())
		}
		if got := strings.Join(rows, "|"); got != want {
			t.Errorf("%q shows %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{"\x1b]0;title\x07", "\x1b[2J", "\x1b[48;5;1m", "\x00"} {
		if err := (&screen{width: 5}).write(text); err == nil {
			t.Errorf("%q is shown as if it were understood", text)
		}
	}
}

func TestParseCast(t *testing.T) {
	head := `{"version":2,"width":10,"height":2}`
	for _, text := range []string{
		"", "{}", `{"version":1,"width":10,"height":2}`, `{"version":2,"width":100000,"height":2}`,
		head + "\n[0]x", head + "\n" + `[1,"i","x"]`, head + "\n" + `[1,"o","x"]` + "\n" + `[0,"o","y"]`,
	} {
		if _, err := parseCast([]byte(text)); err == nil {
			t.Errorf("%q is taken for a recording", text)
		}
	}
	c := must.Get(parseCast([]byte(head + "\n" + `[0.5,"o","x<y"]`)))(t)
	if got := string(c.encode()); got != head+"\n"+`[0.500,"o","x<y"]`+"\n" {
		t.Errorf("encoded again it is %q", got)
	}
}
