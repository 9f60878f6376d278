package main

import "time"

// scene is one command of a recording, as it is typed.
type scene struct {
	comment string
	command string
	// until ends a command that does not end by itself, with Ctrl-C; 0 waits.
	until time.Duration
}

// script is what is recorded, in a terminal of that size.
type script struct {
	title         string
	width, height int
	scenes        []scene
}

// How a person types, and reads.
const (
	keystroke = 45 * time.Millisecond
	reading   = 1200 * time.Millisecond
)

// demo is the recording that the README shows. It needs the pods of
// examples/demo.yaml without gateways, their namespace as that of the kubeconfig,
// and an authority, or none.
func demo() script {
	return script{
		title: "kubectl gateway: two running pods, encrypted", width: 124, height: 24,
		scenes: []scene{
			{comment: "Two pods on two nodes talk to each other in plaintext.", command: "kubectl get pods -o wide --no-headers"},
			{comment: "An authority for the cluster, once.", command: "kubectl gateway init-ca"},
			{comment: "The pods go on running.", command: "kubectl gateway enable pod/pod-01 pod/pod-02"},
			{command: "kubectl gateway status"},
			{comment: "What they say to each other now.", command: "kubectl gateway tail pod/pod-01 --tail=0", until: 3 * time.Second},
		},
	}
}
