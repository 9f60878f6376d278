// Package netlab makes little networks of pods on one machine: network
// namespaces joined by veth, a cgroup tree for each like a pod's, and processes in
// both. Nothing outside is touched: the namespaces have no name and end with the
// process, and the cgroups lie below one directory of their own.
//
// It needs Linux, root and cgroup2, and serves tests as well as programs such as
// the benchmark. On other systems the package is empty.
package netlab
