package tail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/template"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/terminal"
)

// Record is what a template is applied to: a connection, and the pod whose gateway
// tells of it. All its text is printable.
type Record struct {
	api.Connection
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
}

// Template makes lines of connections as a user's template says; other lines it
// leaves out.
type Template struct{ template *template.Template }

// templateHint is the advice for templates that cannot be used.
const templateHint = "it is a Go template of a connection: .Namespace .Pod .Time .Level .Direction .Source .Destination .Dialled .Peer .Wire .Encrypted " +
	".Reason .Sent .Received .Duration .Error, with the functions json and bytes besides Go's own; for example '{{.Pod}} {{.Destination}} {{.Encrypted}}'"

// NewTemplate reads a template. Mistakes that show only when it is used are found
// at once, too: it is tried.
func NewTemplate(text string) (*Template, error) {
	parsed, err := template.New("template").Funcs(template.FuncMap{
		"json": func(value any) (string, error) {
			text, err := json.Marshal(value)
			return string(terminal.CleanJSON(text)), err
		},
		"bytes": terminal.Bytes,
	}).Parse(text)
	if err != nil {
		return nil, api.WithHint(fmt.Errorf("reading the template: %w", err), templateHint)
	}
	if strings.TrimSpace(text) == "" {
		return nil, api.WithHint(fmt.Errorf("the template is empty"), templateHint)
	}
	address := netip.MustParseAddrPort("192.0.2.1:80")
	some := api.Connection{
		Time: time.Unix(0, 0), Level: "INFO", Message: api.ConnectionMessage, Direction: api.Outbound, Source: address, Destination: address,
		Dialled: address, Peer: "spiffe://domain/ns/namespace/sa/account", Wire: api.WirePort, Encrypted: true, Reason: "reason",
		Sent: 1, Received: 1, Duration: 1, Error: "error",
	}
	for _, connection := range []api.Connection{some, {}} {
		if err := parsed.Execute(io.Discard, Record{connection, "namespace", "pod"}); err != nil {
			return nil, api.WithHint(fmt.Errorf("trying the template: %w", err), templateHint)
		}
	}
	return &Template{parsed}, nil
}

// Format is as Text's, for connections. It fails if the template does.
func (t *Template) Format(source Source, line []byte) ([]byte, error) {
	c := parse(line).connection
	if c == nil {
		return nil, nil
	}
	record := Record{*c, terminal.Clean(source.Namespace), terminal.Clean(source.Pod)}
	for _, text := range []*string{&record.Level, &record.Message, &record.Direction, &record.Peer, &record.Wire, &record.Reason, &record.Error} {
		*text = terminal.Clean(*text)
	}
	for _, address := range []*netip.AddrPort{&record.Source, &record.Destination, &record.Dialled} {
		// A zone may hold any character.
		if zone := address.Addr().Zone(); zone != "" {
			*address = netip.AddrPortFrom(address.Addr().WithZone(terminal.Clean(zone)), address.Port())
		}
	}
	var made bytes.Buffer
	if err := t.template.Execute(&made, record); err != nil {
		return nil, fmt.Errorf("applying the template: %w", err)
	}
	if !bytes.HasSuffix(made.Bytes(), []byte("\n")) {
		made.WriteByte('\n')
	}
	return made.Bytes(), nil
}
