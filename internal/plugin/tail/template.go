package tail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	// Go's own text/template calls methods by name, so that the linker keeps all methods
	// of all types: the program would be two thirds larger. This is the same without
	// methods.
	template "github.com/DataDog/datadog-agent/pkg/template/text"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Record is what a template is applied to: a connection, and the pod whose gateway
// logged it. All its text is printable.
type Record struct {
	api.Connection
	Source, Destination, Dialled Address
	Namespace, Pod               string
}

// MarshalJSON returns a connection as -o json prints it.
func (r Record) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		api.Connection
		Namespace string `json:"namespace"`
		Pod       string `json:"pod"`
	}{r.Connection, r.Namespace, r.Pod})
}

// Address is an address whose parts are fields, as templates call no methods.
type Address struct {
	netip.AddrPort
	Addr netip.Addr
	Port uint16
}

// newRecord returns the record of a connection.
func newRecord(c api.Connection, source Source) Record {
	for _, text := range []*string{&c.Level, &c.Message, &c.Direction, &c.Peer, &c.Wire, &c.Reason, &c.Error, &c.TLS.Version, &c.TLS.KeyExchange, &c.TLS.Cipher} {
		*text = terminal.Clean(*text)
	}
	c.TLS.Local, c.TLS.Remote = printable(c.TLS.Local), printable(c.TLS.Remote)
	part := func(a netip.AddrPort) Address {
		a = printable(a)
		return Address{a, a.Addr(), a.Port()}
	}
	return Record{
		Connection: c, Source: part(c.Source), Destination: part(c.Destination), Dialled: part(c.Dialled),
		Namespace: terminal.Clean(source.Namespace), Pod: terminal.Clean(source.Pod),
	}
}

// printable cleans the zone of an address, which may hold any character.
func printable(a netip.AddrPort) netip.AddrPort {
	if zone := a.Addr().Zone(); zone != "" {
		return netip.AddrPortFrom(a.Addr().WithZone(terminal.Clean(zone)), a.Port())
	}
	return a
}

// Template makes lines of connections by a user's template. Other lines are left out.
type Template struct{ template *template.Template }

// templateHint is the hint for a template that cannot be used.
const templateHint = "it is a Go template, without calls of methods, of a connection: .Namespace .Pod .Time .Level .Direction .Source .Destination .Dialled " +
	".Peer .Wire .Encrypted .TLS .Reason .Sent .Received .Duration .Error, of an address also .Source.Addr and .Source.Port, with the functions json, bytes, " +
	"toTimestamp, toRFC3339Nano and toUTC besides Go's own; for example '{{toTimestamp .Time \"15:04:05\"}} {{.Pod}} {{.Destination}} {{.Encrypted}}'"

// functions are the functions of templates besides the language's own. Those for times
// have the names and arguments that stern's have.
func functions() template.FuncMap {
	return template.FuncMap{
		"json": func(value any) (string, error) {
			text, err := json.Marshal(value)
			return string(terminal.CleanJSON(text)), err
		},
		"bytes":         terminal.Bytes,
		"toRFC3339Nano": func(t time.Time) string { return t.Format(time.RFC3339Nano) },
		"toUTC":         func(t time.Time) time.Time { return t.UTC() },
		"toTimestamp":   toTimestamp,
	}
}

// toTimestamp formats a time by a layout of Go's package time, in UTC or in a zone of the
// time zone database (or "Local").
func toTimestamp(t time.Time, layout string, zone ...string) (string, error) {
	where := time.UTC
	switch len(zone) {
	case 0:
	case 1:
		var err error
		if where, err = time.LoadLocation(zone[0]); err != nil {
			return "", err
		}
	default:
		return "", errors.New("a time, a layout and at most one zone are needed")
	}
	return t.In(where).Format(layout), nil
}

// NewTemplate parses a template, and tries it: mistakes that show only in use are found,
// too.
func NewTemplate(text string) (*Template, error) {
	parsed, err := template.New("template").Funcs(functions()).Parse(text)
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
		if err := parsed.Execute(io.Discard, newRecord(connection, Source{Namespace: "namespace", Pod: "pod"})); err != nil {
			return nil, api.WithHint(fmt.Errorf("trying the template: %w", err), templateHint)
		}
	}
	return &Template{parsed}, nil
}

// Format is as Text's, for connections alone. It fails if the template does.
func (t *Template) Format(source Source, line []byte) ([]byte, error) {
	c := parse(line).connection
	if c == nil {
		return nil, nil
	}
	var made bytes.Buffer
	if err := t.template.Execute(&made, newRecord(*c, source)); err != nil {
		return nil, fmt.Errorf("applying the template: %w", err)
	}
	if !bytes.HasSuffix(made.Bytes(), []byte("\n")) {
		made.WriteByte('\n')
	}
	return made.Bytes(), nil
}
