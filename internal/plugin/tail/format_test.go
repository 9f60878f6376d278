package tail

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/muesli/termenv"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

const (
	encryptedLine = `{"time":"2030-05-01T12:00:01.5Z","level":"INFO","msg":"connection","direction":"outbound","source":"10.0.1.5:40000","destination":"10.0.2.2:9000","peer":"spiffe://td/ns/demo/sa/default","wire":"port","encrypted":true,"bytesSent":1536,"bytesReceived":12,"duration":1.2345}`
	plaintextLine = `{"time":"2030-05-01T12:00:01.5Z","level":"INFO","msg":"connection","direction":"outbound","source":"10.0.1.5:40001","destination":"[fd00::2]:80","wire":"none","encrypted":false,"reason":"no gateway at the destination","bytesSent":5,"bytesReceived":0,"duration":0.0005}`
	refusedLine   = `{"time":"2030-05-01T12:00:01.5Z","level":"WARN","msg":"connection","direction":"outbound","source":"10.0.1.5:40002","destination":"10.0.2.2:80","wire":"none","encrypted":false,"reason":"no gateway at the destination","bytesSent":0,"bytesReceived":0,"duration":0.2,"error":"mode is strict"}`
	inboundLine   = `{"time":"2030-05-01T12:00:01.5Z","level":"INFO","msg":"connection","direction":"inbound","source":"10.0.2.2:5000","destination":"10.0.1.5:80","peer":"spiffe://td/ns/demo/sa/b","wire":"port","encrypted":true,"bytesSent":1,"bytesReceived":2,"duration":75,"error":"connection reset by peer"}`
)

var web = Source{Namespace: "demo", Pod: "web"}

func plainText() *Text {
	return &Text{Style: terminal.New(&bytes.Buffer{}, false, termenv.Ascii), Location: time.UTC, Width: 5}
}

// made is what a formatter makes of a line, which must not fail.
func made(t *testing.T, f Formatter, line string) string {
	t.Helper()
	out := must.Get(f.Format(web, []byte(line)))(t)
	return string(out)
}

func TestText(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"encrypted", encryptedLine, "12:00:01.500  web    → out  10.0.1.5:40000 → 10.0.2.2:9000  encrypted  spiffe://td/ns/demo/sa/default  sent 1.5KiB received 12B  1.23s\n"},
		{"plaintext", plaintextLine, "12:00:01.500  web    → out  10.0.1.5:40001 → [fd00::2]:80  plaintext (no gateway at the destination)  sent 5B received 0B  500µs\n"},
		{"refused", refusedLine, "12:00:01.500  web    → out  10.0.1.5:40002 → 10.0.2.2:80  refused (no gateway at the destination)  sent 0B received 0B  200ms  error: mode is strict\n"},
		{"refused for the remembered reason", `{"msg":"connection","level":"WARN","encrypted":false,"reason":"peer has no gateway"}`,
			"00:00:00.000  web    → out  - → -  refused (peer has no gateway)  sent 0B received 0B  0s\n"},
		{"refused inside of TLS", `{"msg":"connection","level":"WARN","direction":"inbound","encrypted":true,"reason":"not allowed"}`,
			"00:00:00.000  web    ← in   - → -  refused (not allowed)  sent 0B received 0B  0s\n"},
		{"plaintext that broke at once", `{"msg":"connection","level":"INFO","error":"reset"}`,
			"00:00:00.000  web    → out  - → -  plaintext  sent 0B received 0B  0s  error: reset\n"},
		{"inbound with an error", inboundLine, "12:00:01.500  web    ← in   10.0.2.2:5000 → 10.0.1.5:80  encrypted  spiffe://td/ns/demo/sa/b  sent 1B received 2B  1m15s  error: connection reset by peer\n"},
		{"almost nothing", `{"msg":"connection"}`, "00:00:00.000  web    → out  - → -  plaintext  sent 0B received 0B  0s\n"},
		{"info is of no interest", `{"time":"2030-05-01T12:00:01Z","level":"INFO","msg":"ready"}`, ""},
		{"warning", `{"time":"2030-05-01T12:00:01Z","level":"WARN","msg":"worker ended","restarts":3,"error":"signal: killed","why":""}`,
			"12:00:01.000  web    WARN: worker ended  error=\"signal: killed\"  restarts=3  why=\"\"\n"},
		{"error above error", `{"time":"2030-05-01T12:00:01Z","level":"ERROR+1","msg":"lost"}`, "12:00:01.000  web    ERROR+1: lost\n"},
		{"no JSON", "panic: runtime error", "web    panic: runtime error\n"},
		{"another JSON", `[1,2]`, "web    [1,2]\n"},
		{"null", `null`, "web    null\n"},
		{"no message", `{"level":"INFO"}`, "web    {\"level\":\"INFO\"}\n"},
		{"no level", `{"msg":"x"}`, "web    {\"msg\":\"x\"}\n"},
		{"a broken address", `{"msg":"connection","source":"nowhere"}`, "web    {\"msg\":\"connection\",\"source\":\"nowhere\"}\n"},
		{"escapes", "{\"msg\":\"connection\",\"level\":\"ERROR\",\"peer\":\"\\u001b[2J\u009b\\n\",\"reason\":\"\u202e\",\"error\":\"\\r\",\"source\":\"[fe80::1%\\u001b]:1\"}",
			`00:00:00.000  web    → out  [fe80::1%\x1b]:1 → -  refused (\u202e)  \x1b[2J\u009b\n  sent 0B received 0B  0s  error: \r` + "\n"},
		{"raw escapes", "\x1b[2Jraw\x9b", `web    \x1b[2Jraw\x9b` + "\n"},
	} {
		if diff := cmp.Diff(c.want, made(t, plainText(), c.line)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestTextOnATerminal(t *testing.T) {
	text := &Text{Style: terminal.New(&bytes.Buffer{}, true, termenv.ANSI), Location: time.UTC, Namespaces: true}
	text.Width = text.NameWidth([]Source{web, {"demo", "web-long"}})
	for _, c := range []struct{ line, want string }{
		{encryptedLine, "\x1b[32m🔒 encrypted\x1b[0m"},
		{plaintextLine, "\x1b[33mplaintext\x1b[0m (no gateway"},
		{refusedLine, "\x1b[1;31mrefused\x1b[0m (no gateway"},
		{inboundLine, "\x1b[1;31merror: connection reset by peer\x1b[0m"},
		{encryptedLine, "demo/web\x1b[0m       → out"},
	} {
		if got := made(t, text, c.line); !strings.Contains(got, c.want) {
			t.Errorf("%q is not in %q", c.want, got)
		}
	}
}

func TestJSON(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"connection", `{"msg":"connection","source":"10.0.1.5:1","pod":"an impostor","extra":{"a":[1]}}`,
			`{"extra":{"a":[1]},"msg":"connection","namespace":"demo","pod":"web","source":"10.0.1.5:1"}` + "\n"},
		{"info", `{"time":"2030-05-01T12:00:01Z","level":"INFO","msg":"ready"}`, ""},
		{"warning", `{"time":"2030-05-01T12:00:01Z","level":"WARN","msg":"x"}`,
			`{"level":"WARN","msg":"x","namespace":"demo","pod":"web","time":"2030-05-01T12:00:01Z"}` + "\n"},
		{"no JSON", "\x1b[2J \"panic\"", `{"namespace":"demo","pod":"web","raw":"\u001b[2J \"panic\""}` + "\n"},
		{"C1", "{\"msg\":\"connection\",\"x\":\"\u009b\"}", `{"msg":"connection","namespace":"demo","pod":"web","x":"\u009b"}` + "\n"},
	} {
		if diff := cmp.Diff(c.want, made(t, JSON{}, c.line)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func FuzzFormat(f *testing.F) {
	for _, line := range []string{encryptedLine, plaintextLine, refusedLine, inboundLine, "", "\x1b[2J", "{", `{"msg":1}`,
		`{"msg":"connection","duration":1e308}`, `{"msg":"connection","duration":-1}`,
		`{"time":"2030-05-01T12:00:01Z","level":"ERROR","msg":"\u001b]0;x\u0007","k\n":"\u202e","n":{"a":"\u009b"}}`,
		"{\"time\":\"2030-05-01T12:00:01Z\",\"level\":\"WARN\",\"msg\":\"x\",\"k\":{\"a\":\"\u009b\"}}"} {
		f.Add([]byte(line))
	}
	text := plainText()
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, out := range [][]byte{[]byte(made(t, text, string(line))), []byte(made(t, JSON{}, string(line)))} {
			if len(out) == 0 {
				continue
			}
			body, ended := bytes.CutSuffix(out, []byte("\n"))
			if !ended || !utf8.Valid(body) {
				t.Fatalf("%q became %q", line, out)
			}
			for _, r := range string(body) {
				if !unicode.IsPrint(r) {
					t.Fatalf("%q became %q, which holds %q", line, out, r)
				}
			}
		}
		if out := []byte(made(t, JSON{}, string(line))); len(out) > 0 {
			var object map[string]any
			if err := json.Unmarshal(out, &object); err != nil || object["namespace"] != "demo" || object["pod"] != "web" {
				t.Fatalf("%q became %q: %v", line, out, err)
			}
		}
	})
}
