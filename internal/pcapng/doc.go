// Package pcapng writes and reads recordings of network packets, in the part of the
// pcapng format (draft-ietf-opsawg-pcapng) that a gateway and the plugin need:
// one little-endian section, interfaces, packets with times in nanoseconds, and
// statistics. Wireshark and tcpdump read what a Writer writes.
//
// A Reader's input comes from the network: the Reader bounds every length before it
// allocates memory.
package pcapng
