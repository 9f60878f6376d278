package tail

import "log/slog"

// Filter chooses among the lines that are shown. The zero value keeps them all. With
// several choices, a line is kept if one of them applies.
type Filter struct {
	// Plaintext keeps connections that were carried without encryption. A refused
	// connection was not carried.
	Plaintext bool
	// Errors keeps connections that were refused or broke, errors and warnings of
	// gateways, and lines that no gateway writes, such as those of a crash.
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
