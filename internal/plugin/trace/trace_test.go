package trace

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

const (
	keyPEM = "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n"
	csrPEM = "-----BEGIN CERTIFICATE REQUEST-----\nc2VjcmV0\n-----END CERTIFICATE REQUEST-----\n"
	jwt    = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
)

func TestMasks(t *testing.T) {
	in64 := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	quote := func(text string) string { return string(must.Get(json.Marshal(text))(t)) }
	const pods, secrets = "/api/v1/namespaces/a/pods/x", "/api/v1/namespaces/a/secrets/x"
	for name, c := range map[string]struct{ path, in, want string }{
		"secret": {secrets, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"},"data":{"tls.key":"c2VjcmV0"},"stringData":{"a":"b"}}`,
			`{"apiVersion":"v1","data":{"tls.key":"<masked>"},"kind":"Secret","metadata":{"name":"x"},"stringData":{"a":"<masked>"}}`},
		"secrets": {secrets, `{"apiVersion":"v1","kind":"SecretList","items":[{"data":{"tls.key":"c2VjcmV0"}}]}`,
			`{"apiVersion":"v1","items":[{"data":{"tls.key":"<masked>"}}],"kind":"SecretList"}`},
		// A list of anything, wherever it comes from.
		"list": {pods, `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Secret","data":{"a":"b"}},{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b"}}]}`,
			`{"apiVersion":"v1","items":[{"apiVersion":"v1","data":{"a":"<masked>"},"kind":"Secret"},{"apiVersion":"v1","data":{"a":"b"},"kind":"ConfigMap"}],"kind":"List"}`},
		"merge patch":   {secrets, `{"data":{"tls.key":"c2VjcmV0"},"metadata":{"labels":{"a":"b"}}}`, `{"data":{"tls.key":"<masked>"},"metadata":{"labels":{"a":"b"}}}`},
		"a patch of it": {secrets, `{"data":"c2VjcmV0"}`, `{"data":"<masked>"}`},
		"JSON patch":    {secrets, `[{"op":"replace","path":"/data/tls.key","value":"c2VjcmV0"}]`, `[{"op":"replace","path":"/data/tls.key","value":"<masked>"}]`},
		"request": {"/apis/certificates.k8s.io/v1/certificatesigningrequests",
			`{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","spec":{"request":"c2VjcmV0","signerName":"s"},"status":{"certificate":"cert"}}`,
			`{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","spec":{"request":"<masked>","signerName":"s"},"status":{"certificate":"cert"}}`},
		"token": {"/api/v1/namespaces/a/serviceaccounts/x/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":"c2VjcmV0"}}`,
			`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":"<masked>"}}`},
		"environment": {pods, `{"spec":{"containers":[{"env":[{"name":"A","value":"c2VjcmV0"},{"name":"B","valueFrom":{"secretKeyRef":{"name":"n","key":"k"}}}]}]}}`,
			`{"spec":{"containers":[{"env":[{"name":"A","value":"<masked>"},{"name":"B","valueFrom":{"secretKeyRef":{"key":"k","name":"n"}}}]}]}}`},
		"what was applied": {pods, `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"c2VjcmV0","a":"b"}}}`,
			`{"metadata":{"annotations":{"a":"b","kubectl.kubernetes.io/last-applied-configuration":"<masked>"}}}`},
		"key in a text":         {pods, `{"data":{"a":` + quote("x\n"+keyPEM) + `}}`, `{"data":{"a":"<masked>"}}`},
		"request in a text":     {pods, `{"data":{"a":` + quote(csrPEM) + `}}`, `{"data":{"a":"<masked>"}}`},
		"key in base64":         {pods, `{"data":{"a":` + quote("x "+in64(keyPEM)) + `}}`, `{"data":{"a":"x <masked>"}}`},
		"certificate":           {pods, `{"caBundle":` + quote(in64("-----BEGIN CERTIFICATE-----\n")) + `}`, `{"caBundle":"LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="}`},
		"token in a text":       {pods, `{"message":"bad ` + jwt + `!"}`, `{"message":"bad <masked>!"}`},
		"numbers stay":          {pods, `{"a":18446744073709551615,"b":1e3}`, `{"a":18446744073709551615,"b":1e3}`},
		"nothing is understood": {pods, `{"a":`, ""},
		"more than one":         {pods, `{"a":1}{"b":2}`, ""},
	} {
		got, ok := show([]byte(c.in), "application/json", c.path)
		if string(got) != c.want || ok != (c.want != "") {
			t.Errorf("%s: %t\n got %s\nwant %s", name, ok, got, c.want)
		}
	}
	for kind, want := range map[string]string{
		"application/apply-patch+yaml": `{"data":{"a":"<masked>"}}`, "application/strategic-merge-patch+json": "", "text/plain": "", "application/cbor": "", "": "",
	} {
		if got, _ := show([]byte("data:\n  a: c2VjcmV0\n"), kind, secrets); string(got) != want {
			t.Errorf("%s: %s", kind, got)
		}
	}
}

// TestMasksProtobuf: the plugin asks for objects in this form.
func TestMasksProtobuf(t *testing.T) {
	serializer := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	list := &corev1.SecretList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "SecretList"}, Items: []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Data: map[string][]byte{"tls.key": []byte("secret")}}}}
	content := must.Get(runtime.Encode(serializer, list))(t)
	got, ok := show(content, runtime.ContentTypeProtobuf, "/api/v1/secrets")
	const want = `{"apiVersion":"v1","items":[{"data":{"tls.key":"<masked>"},"metadata":{"name":"x"}}],"kind":"SecretList","metadata":{}}`
	if string(got) != want || !ok {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got, ok := show([]byte("k8s\x00nonsense"), runtime.ContentTypeProtobuf, "/"); ok {
		t.Errorf("%s", got)
	}
}

// head is what differs from entry to entry.
var head = regexp.MustCompile(`(?m)^I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.go:\d+\] `)

// logged is what is logged of a request at a level. The answer arrives whole all the same.
func logged(t *testing.T, level int, method, path string, header http.Header, body, kind string) string {
	t.Helper()
	const answer = `{"apiVersion":"v1","kind":"Secret","data":{"key":"c2VjcmV0"},"message":"\u001b[2J"}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got, _ := io.ReadAll(r.Body); string(got) != body {
			t.Errorf("the server gets %q", got)
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Set-Cookie", "c2VjcmV0")
		w.Header().Set("Date", "Wed, 02 Jan 2030 03:04:05 GMT")
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	request := must.Get(http.NewRequest(method, server.URL+path, strings.NewReader(body)))(t)
	request.Header = header
	var out bytes.Buffer
	response := must.Get(Transport(&out, level)(http.DefaultTransport).RoundTrip(request))(t)
	if got := must.Get(io.ReadAll(response.Body))(t); string(got) != answer {
		t.Errorf("it arrives as %q", got)
	}
	must.Do(t, response.Body.Close())
	text := strings.ReplaceAll(out.String(), server.URL, "SERVER")
	if strings.Contains(text, "c2VjcmV0") {
		t.Errorf("it is not masked:\n%s", text)
	}
	text = head.ReplaceAllString(text, "")
	return regexp.MustCompile(`milliseconds=\d+`).ReplaceAllString(text, "milliseconds=N")
}

func TestLevels(t *testing.T) {
	header := func() http.Header {
		return http.Header{"Authorization": {"Bearer c2VjcmV0"}, "Accept": {"application/json"}, "Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io.c2VjcmV0"}, "Content-Type": {"application/json"}}
	}
	const (
		body    = `{"data":{"key":"c2VjcmV0"}}`
		request = `"Request" verb="POST" url="SERVER/api/v1/secrets" headers=<` + "\n\tAccept: application/json\n\tAuthorization: Bearer <masked>\n\tContent-Type: application/json\n\tSec-Websocket-Protocol: <masked>\n >\n"
		curl    = `"Request" curlCommand=<` + "\n\t" + `curl -v -XPOST -H "Accept: application/json" -H "Authorization: Bearer <masked>" -H "Content-Type: application/json" -H "Sec-Websocket-Protocol: <masked>" 'SERVER/api/v1/secrets'` + "\n >\n"
		sent    = `"Request Body" body=<` + "\n\t" + `{"data":{"key":"<masked>"}}` + "\n >\n"
		brief   = `"Response" verb="POST" url="SERVER/api/v1/secrets" status="200 OK" milliseconds=N` + "\n"
		long    = `"Response" verb="POST" url="SERVER/api/v1/secrets" status="200 OK" headers=<` + "\n\tContent-Length: 83\n\tContent-Type: application/json\n\tDate: Wed, 02 Jan 2030 03:04:05 GMT\n\tSet-Cookie: <masked>\n > milliseconds=N\n"
		got     = `"Response Body" body=<` + "\n\t" + `{"apiVersion":"v1","data":{"key":"<masked>"},"kind":"Secret","message":"\u001b[2J"}` + "\n >\n"
	)
	for level, want := range map[int]string{6: brief, 7: request + brief, 8: request + sent + long + got, 9: curl + sent + long + got, 10: curl + sent + long + got} {
		if diff := cmp.Diff(want, logged(t, level, http.MethodPost, "/api/v1/secrets", header(), body, "application/json")); diff != "" {
			t.Errorf("level %d (-want +got):\n%s", level, diff)
		}
	}
	unknown := logged(t, 8, http.MethodPost, "/api/v1/secrets", header(), body, "text/plain")
	if !strings.HasSuffix(unknown, `"Response Body" type="text/plain" bytes=83`+"\n") {
		t.Errorf("of a body that is not understood:\n%s", unknown)
	}
	for _, stream := range []string{"/api/v1/secrets?watch=true", "/api/v1/namespaces/a/pods/b/log"} {
		if got := logged(t, 9, http.MethodGet, stream, header(), "", "application/json"); strings.Contains(got, "Body") {
			t.Errorf("a stream has a body:\n%s", got)
		}
	}
}

// TestShortens: a body is masked first, and shown up to a length that depends on the level.
func TestShortens(t *testing.T) {
	body := `{"data":{"key":"c2VjcmV0"},"text":"` + strings.Repeat("é", 20_000) + `"}`
	for level, most := range map[int]int{8: 1 << 10, 9: 10 << 10} {
		got := logged(t, level, http.MethodPut, "/api/v1/secrets", http.Header{"Content-Type": {"application/json"}}, body, "application/json")
		_, got, _ = strings.Cut(got, "Request Body")
		got, _, cut := strings.Cut(got, " [truncated ")
		if !cut || len(got) > most+100 || len(got) < most {
			t.Errorf("level %d: %d bytes", level, len(got))
		}
	}
	got := logged(t, 10, http.MethodPut, "/api/v1/secrets", http.Header{"Content-Type": {"application/json"}}, body, "application/json")
	if strings.Contains(got, "truncated") {
		t.Error("level 10 shortens as well")
	}
}
