// Package bpf holds the eBPF programs of the gateway and everything Go needs
// to use them.
//
// [PodCgroup] finds where to attach, [Load] loads, [New] makes what is loaded those of a pod, [Programs.AttachSockets],
// [Programs.StartCapture] and [Programs.AttachInbound] attach. Those need privilege
// and belong to the supervisor, but for the first step, which is a process of its own ([SendLoaded]). [OriginalDestination], [PresentAs], [MarkInband] and
// [Negotiated] are socket options: they need none and are all that the worker uses.
//
// The programs are C: gateway.c and inbound.c say which file has which. Outbound, at the
// pod's cgroup, they send connect(2) to the gateway, whose listener kgw_spread finds ([Programs.Spread]). Inbound, in the pod's network namespace,
// two programs send connections to the gateway. kgw_ingress reads the SYNs that come in and
// assigns them to the in-band listener. kgw_lookup does so when the kernel looks for a
// listener and kgw_ingress could not assign the SYN: for the ACK that answers a SYN cookie,
// and after a connection in TIME_WAIT. In strict mode kgw_lookup sees everything that can
// reach a listener of the pod, in whatever headers. kgw_ingress is what stays when a gateway
// fails closed.
//
// The programs are written for Linux 5.10 and later. features.go lists what they need of the
// kernel and since when that exists. The releases were taken from the kernel's history, and a
// test keeps the list complete. The inbound programs are an object of their own, so that a
// kernel which lacks something for them still has the rest.
//
// The package is empty on systems other than Linux.
package bpf
