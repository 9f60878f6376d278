package remote

import (
	"io"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

func TestEdges(t *testing.T) {
	var command []string
	say := `{"edges":[{"direction":"outbound","source":"10.0.0.1","destination":"10.0.0.2:80","wire":"port","verdict":"encrypted","connections":3}]}`
	s := &server{run: func(r *http.Request, _ io.Reader, stdout, _ io.Writer) metav1.Status {
		command = r.URL.Query()["command"]
		_, _ = io.WriteString(stdout, say)
		return exit(0)
	}}
	client := s.start(t)
	edges, err := client.Edges(bounded(t))
	if err != nil || len(edges.Edges) != 1 || edges.Edges[0].Connections != 3 ||
		strings.Join(command, " ") != "/kube-gateway ctl edges -o json" {
		t.Errorf("%+v, %v, by %q", edges, err, command)
	}
	one := strings.TrimSuffix(say[strings.Index(say, "[")+1:], "]}")
	for _, say = range []string{
		"", "{}", "[]", `{"edges":null}`, `{"edges":[{"source":"\u001b[2J"}]}`, `{"edges":"\u001b[2J"}`,
		`{"edges":[` + strings.Repeat(one+",", api.MaxEdges) + one + "]}",
		`{"edges":[],"x":"` + strings.Repeat("x", answerLimit) + `"}`,
	} {
		edges, err := client.Edges(bounded(t))
		if err == nil || edges != nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%.60q: %+v, %q", say, edges, err)
		}
	}
	s.run = func(_ *http.Request, _ io.Reader, _, stderr io.Writer) metav1.Status {
		_, _ = io.WriteString(stderr, "error: unknown control command \"edges\"\nhint: see 'kube-gateway help'\n")
		return exit(1)
	}
	if _, err := client.Edges(bounded(t)); err == nil || !strings.Contains(api.Hint(err), "one release") {
		t.Errorf("an old gateway: %v, %q", err, api.Hint(err))
	}
}
