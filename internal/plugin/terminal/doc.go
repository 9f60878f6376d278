// Package terminal decides how output looks: coloured on a terminal, plain in a
// pipe. It also holds the one table printer, and makes text that came from
// elsewhere harmless to a terminal.
package terminal
