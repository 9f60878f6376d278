package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/verify"
)

// printVerification shows what was seen of two pods: the bytes on both sides, and
// the verdict. All text in it may come from elsewhere.
func printVerification(w io.Writer, style *terminal.Style, r *verify.Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", style.Paint(terminal.Strong, line(fmt.Sprintf("%s > %s at %v", &r.From, &r.To, r.Destination))))
	for _, s := range []*verify.Side{&r.From, &r.To} {
		printSide(&b, style, s)
	}
	if r.From.Identity != "" || r.To.Identity != "" {
		fmt.Fprintf(&b, "  identities  %s > %s\n", known(r.From.Identity), known(r.To.Identity))
	}
	if r.TLS.Version != "" {
		fmt.Fprintf(&b, "  wire        %s, %s\n", known(r.Wire), line(strings.Join([]string{r.TLS.Version, r.TLS.KeyExchange, r.TLS.Cipher}, ", ")))
	}
	switch r.Verdict {
	case verify.Encrypted:
		fmt.Fprintf(&b, "%s the canary was never readable on the network\n", style.Paint(terminal.Good, "√ encrypted:"))
	case verify.Plaintext:
		fmt.Fprintf(&b, "%s %s\n", style.Paint(terminal.Bad, "× plaintext:"), line(strings.Join(r.Reasons, "; ")))
	default:
		fmt.Fprintf(&b, "%s %s\n", style.Paint(terminal.Caution, "‼ inconclusive:"), line(strings.Join(r.Reasons, "; ")))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printSide(b *strings.Builder, style *terminal.Style, s *verify.Side) {
	if !s.Gateway {
		fmt.Fprintf(b, "  in %s no gateway runs that could look\n", line(s.String()))
		return
	}
	fmt.Fprintf(b, "  in %s, %d packets, %d dropped\n", line(s.String()), s.Packets, s.Dropped)
	printSighting(b, s.Loopback, style.Paint(terminal.Good, "the canary, readable as it must be"))
	printSighting(b, s.Network, style.Paint(terminal.Bad, "the canary, readable on the network"))
	printSighting(b, s.TLS, style.Paint(terminal.Good, fmt.Sprintf("one of %d TLS records of application data", s.Records)))
}

func printSighting(b *strings.Builder, s *verify.Sighting, what string) {
	if s == nil {
		return
	}
	fmt.Fprintf(b, "    %s: %s\n", line(fmt.Sprintf("%s %v > %v", s.Interface, s.Source, s.Destination)), what)
	for row := range strings.Lines(hex.Dump(s.Data)) {
		b.WriteString("      " + row)
	}
}

func known(text string) string {
	if text == "" {
		return "not known"
	}
	return line(text)
}
