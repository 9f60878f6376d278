// Package packets receives the packets of a pod from its gateway, which records them.
package packets
