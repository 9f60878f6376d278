// Package inject puts a gateway into a running pod. Injector.Enable (inject.go)
// is the path of one pod, and a reader follows it through four files in order:
//
//	preflight.go  may and can this pod have a gateway at all
//	secret.go     its certificate, key and trust bundle on their way to the pod
//	container.go  the ephemeral container and the patch that adds it
//	wait.go       from the patch to a gateway that says it is ready
//
// Without a Secret, wait.go brings a gateway the certificate that it asks for.
// remarks.go says what a user should know about a gateway that runs.
package inject
