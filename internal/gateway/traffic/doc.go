// Package traffic counts a gateway's connections: by direction (Counters), by the reason why they
// were not encrypted (reasons.go has the one table of reasons), and by the two addresses between
// which they are (Edges). The proxy counts; the supervisor and the exporter report.
package traffic
