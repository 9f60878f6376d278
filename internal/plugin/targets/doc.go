// Package targets finds the pods that a command line selects: by name, workload, file,
// selector or namespace.
//
// cli-runtime parses the words for kinds and the files, and maps them to the server's
// resources, as in kubectl. A workload stands for its present pods: those that match its
// selector and that it owns, directly or through other objects. A label alone does not
// make a pod part of a workload.
package targets
