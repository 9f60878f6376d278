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
// and no authority: see the script record-demo.
func demo() script {
	return script{
		title: "kubectl gateway: two running pods, encrypted", width: 112, height: 30,
		scenes: []scene{
			{comment: "Two pods on two nodes talk to each other in plaintext.", command: "kubectl get pods -o wide --no-headers"},
			{comment: "An authority for the cluster, once.", command: "kubectl gateway init-ca"},
			{comment: "The pods go on running.", command: "kubectl gateway enable pod/pod-01 pod/pod-02"},
			{comment: "Who talks to whom?", command: "kubectl gateway status --edges"},
			{comment: "What is on the wire?", command: "kubectl gateway verify pod/pod-01 pod/pod-02"},
		},
	}
}
