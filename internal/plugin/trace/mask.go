package trace

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// masked stands in the place of a value.
const masked = "<masked>"

// show returns a body as JSON, masked. ok is false if it is not understood. path is that of the
// request, which tells what a patch changes.
func show(content []byte, kind, path string) (text []byte, ok bool) {
	switch {
	case kind == runtime.ContentTypeProtobuf:
		content = fromProtobuf(content)
	case strings.HasSuffix(kind, "yaml"):
		var err error
		if content, err = yaml.YAMLToJSON(content); err != nil {
			return nil, false
		}
	case kind != runtime.ContentTypeJSON && !strings.HasSuffix(kind, "+json"):
		return nil, false
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return nil, false
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, false
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	// The default escapes "<" for HTML.
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(mask(value, kindOf(path)))
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err == nil
}

// fromProtobuf returns an object as JSON, nil if it is of an unknown kind.
func fromProtobuf(content []byte) []byte {
	object, kind, err := scheme.Codecs.UniversalDeserializer().Decode(content, nil, nil)
	if err != nil {
		return nil
	}
	object.GetObjectKind().SetGroupVersionKind(*kind)
	text, err := json.Marshal(object)
	if err != nil {
		return nil
	}
	return text
}

// Kinds whose fields are secret.
const (
	secret  = "Secret"
	request = "CertificateSigningRequest"
)

// kindOf returns the kind of the objects of a path, of those whose fields are secret.
func kindOf(path string) string {
	parts := strings.Split(path, "/")
	switch {
	case slices.Contains(parts, "secrets"):
		return secret
	case slices.Contains(parts, "certificatesigningrequests"):
		return request
	}
	return ""
}

// always are the fields, in lower case, whose values are secret in every object.
var always = []string{"token", "password", "clientsecret", "client_secret", "privatekey", "private_key", "id_token", "access_token", "refresh_token",
	"client-key-data", "bearertoken", "stubpkcs10request", "proofofpossession", "kubectl.kubernetes.io/last-applied-configuration"}

// mask replaces what is secret in an object, a list or a patch. kind is that of an object which does
// not name its own.
func mask(value any, kind string) any {
	switch v := value.(type) {
	case string:
		return maskText(v)
	case []any:
		for i := range v {
			v[i] = mask(v[i], kind)
		}
	case map[string]any:
		if own, ok := v["kind"].(string); ok && v["apiVersion"] != nil {
			kind = cut(own, kind)
		}
		for name, field := range v {
			v[name] = maskField(name, field, kind)
		}
	}
	return value
}

// cut returns the kind of what an object of kind own holds: that of its items if it is a list of
// one kind.
func cut(own, otherwise string) string {
	if own == "List" {
		return otherwise
	}
	return strings.TrimSuffix(own, "List")
}

func maskField(name string, field any, kind string) any {
	switch {
	case slices.Contains(always, strings.ToLower(name)):
		return masked
	case kind == secret && (name == "data" || name == "stringData"):
		return values(field)
	// A JSON patch has values of any fields.
	case kind == secret && name == "value", kind == request && (name == "request" || name == "value"):
		return masked
	case name == "env":
		return environment(field)
	}
	return mask(field, kind)
}

// values masks the values of a map and leaves its keys.
func values(field any) any {
	fields, ok := field.(map[string]any)
	if !ok {
		return masked
	}
	for name := range fields {
		fields[name] = masked
	}
	return fields
}

// environment masks the values of a container's environment variables.
func environment(field any) any {
	list, ok := field.([]any)
	if !ok {
		return mask(field, "")
	}
	for i := range list {
		variable, ok := list[i].(map[string]any)
		if !ok {
			continue
		}
		if _, ok := variable["value"]; ok {
			variable["value"] = masked
		}
	}
	return mask(field, "")
}

var (
	// private begins the text or the base64 of PEM blocks with a private key or a request (RFC 7468).
	private = regexp.MustCompile(`-----BEGIN [A-Z ]*(PRIVATE KEY|CERTIFICATE REQUEST)-----`)
	encoded = regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/_=-]*`)
	// token is a JSON Web Token (RFC 7519).
	token = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`)
)

func maskText(text string) string {
	if private.MatchString(text) {
		return masked
	}
	text = encoded.ReplaceAllStringFunc(text, func(block string) string {
		content, err := base64.StdEncoding.DecodeString(block)
		if err != nil || private.Match(content) {
			return masked
		}
		return block
	})
	return token.ReplaceAllString(text, masked)
}
