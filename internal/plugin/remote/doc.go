// Package remote talks to gateways by running commands in their containers through the
// API server, as kubectl exec does.
//
//	conn.go          one gateway: who it is, how often it is asked, what it may answer
//	status.go        how it is, who it talks to, its mode and identity rules, its metrics
//	life.go          certificate, trust bundle, and the end
//	succession.go    which of two gateways serves, and how one takes the other's place
//	exec.go          commands in containers; errors.go says why one did not run
package remote
