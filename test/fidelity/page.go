//go:build linux

package fidelity

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Setting says what is between client and server.
type Setting struct {
	Name string
	// Gateways is how many there are: of none, of the client, of both.
	Gateways int
	Wire     api.Wire
	Mode     api.Mode
}

// Direct is the setting that all others are compared with.
const Direct = "direct"

// Settings returns all of them.
func Settings() []Setting {
	return []Setting{
		{Name: Direct},
		{"port", 2, api.WirePort, api.Permissive},
		{"port strict", 2, api.WirePort, api.Strict},
		{"inband", 2, api.WireInband, api.Permissive},
		{"inband strict", 2, api.WireInband, api.Strict},
		{"plaintext port", 1, api.WirePort, api.Permissive},
		{"plaintext inband", 1, api.WireInband, api.Permissive},
	}
}

// Difference is a scenario that is not the same in all settings: a row of docs/FIDELITY.md.
type Difference struct {
	Scenario string
	// Where are the settings in which it differs.
	Where []string
	// Without and With are the first lines that differ, the latter in the first of Where.
	Without, With string
	// Reason is a heading of the page, empty for what is not written down.
	Reason string
}

// Compare compares transcripts, by setting and scenario, with the direct ones.
func Compare(transcripts map[string]map[string][]string) (all []Difference) {
	for _, s := range Scenarios() {
		if d := compare(s.Name, transcripts); d != nil {
			all = append(all, *d)
		}
	}
	return all
}

// Unknown returns the scenarios that differ, or do not, otherwise than known says.
func Unknown(known []Difference, transcripts map[string]map[string][]string) (names []string) {
	for _, s := range Scenarios() {
		if _, played := transcripts[Direct][s.Name]; !played {
			continue
		}
		i := slices.IndexFunc(known, func(d Difference) bool { return d.Scenario == s.Name })
		d := compare(s.Name, transcripts)
		if d == nil && i < 0 || d != nil && i >= 0 && d.same(known[i]) {
			continue
		}
		names = append(names, s.Name)
	}
	return names
}

// same reports whether two differences are the same, whatever the reason.
func (d *Difference) same(other Difference) bool {
	return d.Scenario == other.Scenario && slices.Equal(d.Where, other.Where) && d.Without == other.Without && d.With == other.With
}

// Tries is how often a scenario may be played until it is as the page says: on a busy machine what is late may be
// the machine. What is not as with sockets alone differs each time.
const Tries = 3

// compare returns nil if a scenario is the same everywhere.
func compare(name string, transcripts map[string]map[string][]string) *Difference {
	want := transcripts[Direct][name]
	var d *Difference
	for _, s := range Settings() {
		played, ok := transcripts[s.Name]
		got := played[name]
		if !ok || slices.Equal(got, want) {
			continue
		}
		if d == nil {
			d = &Difference{Scenario: name}
			i := 0
			for i < min(len(got), len(want)) && got[i] == want[i] {
				i++
			}
			d.Without, d.With = line(want, i), line(got, i)
		}
		d.Where = append(d.Where, s.Name)
	}
	return d
}

func line(transcript []string, i int) string {
	if i < len(transcript) {
		return transcript[i]
	}
	return "nothing more"
}

// Names of settings together.
func groups() map[string][]string {
	var encrypted, plaintext []string
	for _, s := range Settings() {
		switch s.Gateways {
		case 1:
			plaintext = append(plaintext, s.Name)
		case 2:
			encrypted = append(encrypted, s.Name)
		}
	}
	return map[string][]string{"all": slices.Concat(encrypted, plaintext), "encrypted": encrypted, "plaintext": plaintext}
}

// String returns the row.
func (d Difference) String() string {
	where := strings.Join(d.Where, ", ")
	for name, list := range groups() {
		if slices.Equal(d.Where, list) {
			where = name
		}
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", d.Scenario, where, d.Without, d.With, d.Reason)
}

// ParseRow reads a row of the page.
func ParseRow(row string) (d Difference, ok bool) {
	cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
	if len(cells) != 5 {
		return d, false
	}
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	where, ok := groups()[cells[1]]
	if !ok {
		where = strings.Split(cells[1], ", ")
	}
	return Difference{Scenario: cells[0], Where: where, Without: cells[2], With: cells[3], Reason: cells[4]}, true
}

// Write writes transcripts to a directory, a file for each setting, for whoever looks for a cause.
func Write(dir string, transcripts map[string]map[string][]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for setting, all := range transcripts {
		var b strings.Builder
		for _, s := range Scenarios() {
			if lines, ok := all[s.Name]; ok {
				fmt.Fprintf(&b, "# %s\n%s\n\n", s.Name, strings.Join(lines, "\n"))
			}
		}
		if err := os.WriteFile(filepath.Join(dir, setting), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
