package tail

import "log/slog"

// Filter chooses among the lines that are of interest at all. The zero value keeps
// them all; with several choices a line is kept if one of them fits.
type Filter struct {
	// Plaintext keeps connections that were carried without encryption. Those that
	// were refused were not carried.
	Plaintext bool
	// Errors keeps connections that were refused or broke, errors and warnings of
	// gateways, and lines that no gateway writes, as those of a crash.
	Errors bool
}

func (f Filter) keeps(e *entry) bool {
	if f == (Filter{}) {
		return true
	}
	if c := e.connection; c != nil {
		return f.Plaintext && !c.Encrypted && !refused(c) || f.Errors && (refused(c) || c.Error != "")
	}
	return f.Errors && (e.message == nil || e.message.level >= slog.LevelWarn)
}
