// Command cluster runs a real Kubernetes on one Linux machine, for the demo and
// the end-to-end tests: etcd, API server, controller manager, scheduler,
// CoreDNS, and per node containerd, runc, kubelet and kube-proxy. It needs root,
// Go, and on Debian-like systems nothing else prepared; no container engine and
// no image registry.
//
//	go run . up [--nodes 2]        start it; harmless when it is up
//	go run . load IMAGE.tar...     give the nodes images (imagePullPolicy: Never)
//	go run . kubeconfig            print the path of the kubeconfig
//	go run . kubectl ARG...        the cluster's own kubectl
//	go run . exec node-1 -- CMD    run a command inside a node
//	go run . status                what runs
//	go run . stop UNIT             kill a component of the control plane, until "start UNIT"
//	go run . down                  remove everything
//
// The first up builds the programs (programs/go.mod has their versions), about ten
// minutes on two cores; they are kept in $XDG_CACHE_HOME/kubectl-gateway/cluster,
// and later ones take half a minute. The state is in
// /var/lib/kubectl-gateway-cluster, or in $KUBE_GATEWAY_CLUSTER_DIR: another
// directory is another cluster.
//
// # Shape
//
// Everything that runs lives in one control group, and everything that is
// mounted or configured lives in namespaces that exist only as long as the
// processes in them. So down needs no bookkeeping: it kills the control group,
// removes it, and removes the state directory. It works equally after a crash
// or a kill -9 of any part, up included.
//
//	machine                         [supervisor: 127.0.0.1:PORT ──┐ to the API server]
//	control-plane (net, mnt, uts)   br0 172.30.0.1, etcd, kube-apiserver, …, CoreDNS
//	node-1 (net, mnt, uts, ipc,     eth0 172.30.0.11, containerd, kubelet, kube-proxy
//	        cgroup)                 pods 10.244.1.0/24, fd00:10:244:1::/64
//	node-2                          eth0 172.30.0.12, pods 10.244.2.0/24, …
//
// The machine's own network namespace gets no interface, route or rule; only a
// listener on a loopback port, which leads to the API server. Pods reach each
// other with their own addresses (routed ptp, no address translation), and they
// reach Services through kube-proxy in nftables mode. There is no route out of
// the cluster.
//
// What crosses the wire between nodes can be seen in control-plane:
//
//	go run . exec control-plane -- tcpdump -ni br0
//
// A node sees its own control group as the root of the hierarchy, as a machine
// would: a privileged container finds itself at /kubepods/pod<uid>/<id> and can
// attach nothing above its node. This needs a mounted cgroup2 hierarchy only;
// no controllers are used, so that hosts with cgroup v1, hybrid or v2 all work
// in the same way, and pods have no resource limits.
//
// # Reading order
//
// main.go dispatches; up.go and down.go are the two verbs that matter;
// supervisor.go, controlplane.go and node.go are the three long-running roles
// that up starts, in that order; components.go has the command line of every
// component and config.go their files.
package main
