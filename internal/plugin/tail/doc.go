// Package tail follows the logs of gateways and makes their lines readable.
//
//	tail.go      many gateways at once
//	join.go      pods that get a gateway while others are followed
//	follow.go    one gateway, over broken streams and successors
//	rotated.go   lines that the node has rotated away
//	lines.go     the lines of one stream
//	parse.go     the content of a line
//	text.go      a line for people
//	json.go      a line for programs
//	printed.go   a line for programs, by JSONPath or a Go template
//	template.go  a line in the user's own format
//	filter.go    which lines are printed
package tail
