// Package targets turns what a user names on the command line (pods, workloads,
// files, selectors, everything) into pods, so that every verb does it alike.
//
// Words for kinds, files and their mapping to the server's resources are
// cli-runtime's business, as in kubectl. A workload means the pods that it has
// at present: those that match its selector and are owned by it, or by what it
// owns in turn. A label alone makes no pod a workload's own.
package targets
