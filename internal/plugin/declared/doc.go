// Package declared is what annotations say about the settings of gateways: those of the pod, of its
// workload and of its namespace.
//
//	words.go    the words that settings have for values, for annotations and flags alike
//	setting.go  the table of settings
//	resolve.go  which annotation counts, and what is wrong with others
//	reader.go   where the annotations of a pod are, for who reads them once
package declared
