// Package remote runs commands in the containers of pods through the API server,
// as kubectl exec does, and asks gateways for their status that way.
package remote
