// Package bpf holds the eBPF programs of the gateway and everything Go needs
// to use them.
//
// [PodCgroup] finds where to attach, [Load] loads, [Programs.AttachSockets],
// [Programs.StartCapture] and [Programs.AttachInbound] attach. Those need privilege
// and belong to the supervisor. [OriginalDestination], [PresentAs], [MarkInband] and
// [PeerShown] are socket options: they need none and are all that the worker uses.
//
// Outbound, at the pod's cgroup, connect(2) is sent to the gateway. Inbound, in the
// pod's network namespace, two programs send to the gateway what is its own: one
// reads the SYNs that come in and assigns them to the in-band listener, and one does the
// same where the kernel looks for a listener without a SYN that could be assigned: for
// the ACK that answers a SYN cookie, and after a connection in TIME_WAIT. In strict mode
// the latter sees everything that could reach a listener of the pod, however it was
// wrapped up, and the former is what stays when a gateway fails closed.
//
// The programs are written for Linux 5.10 and later. What they need of the kernel,
// and since when it exists, is listed in features.go; the releases were taken from
// the kernel's history, and a test keeps the list complete. The inbound programs are an
// object of their own, so that a kernel which cannot have them still has the rest.
//
// The package is empty on systems other than Linux.
package bpf
