// Package admission has the API server give new pods a gateway: by a MutatingAdmissionPolicy and its binding,
// which are objects of the cluster, and nothing that runs.
//
//	policy.go   what the two objects say
//	cel.go      a container as an expression of the Common Expression Language
//	live.go     the objects in the cluster: how they are, and how they change
//	diff.go     what would change
package admission
