// Package terminal formats output: coloured on a terminal, plain in a pipe. It prints
// tables, and makes foreign text harmless to a terminal.
package terminal
