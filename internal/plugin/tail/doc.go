// Package tail follows the logs of gateways and makes their lines readable.
//
//	tail.go    following many gateways at once
//	join.go    pods and gateways that come while following
//	follow.go  one gateway, over broken streams and successors
//	lines.go   the lines of one stream
//	parse.go   what a line says
//	text.go    a line for people
//	json.go    a line for programs
//	template.go a line as the user wants it
//	filter.go  which lines are wanted
package tail
