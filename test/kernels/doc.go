// Command kernels runs the tests of the eBPF programs and of whole gateways on the
// kernels that kubectl-gateway supports: Debian's, in virtual machines of QEMU, with
// or without KVM. "make test-kernels" runs it.
//
// A guest is a kernel of one Debian release, a user space of a few Debian packages,
// and the tests as static programs. It says on a serial port what the tests say, and
// powers itself off. The packages come by apt, which verifies them against the keys of
// Debian's archive, and what is made of them stays in the user's cache directory.
package main
