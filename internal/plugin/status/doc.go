// Package status asks many gateways how they are and puts the answers into a
// list that people and programs read. A reader follows it through four files
// in order:
//
//	list.go     the list, in its documented JSON form
//	collect.go  asking the gateways of some pods, in parallel
//	declared.go where settings come from
//	judge.go    what is wrong with one, and what to do about it
//	table.go    the list as a table
package status
