// Package traffic says what became of a gateway's connections, in numbers and in words:
// the directions, the reasons why connections were not encrypted (reasons.go has the one
// table of them), the counters of a gateway, and its edges, which are the connections
// between two addresses summed up.
//
// The proxy counts, the supervisor and the exporter report. What is on the wire and in
// the log is internal/api's.
package traffic
