// Package pcapng writes and reads captures of network packets, in the part of the
// pcapng format (draft-ietf-opsawg-pcapng) that a gateway and the plugin need:
// one little-endian section, interfaces, packets with times in nanoseconds, and
// statistics. Wireshark and tcpdump read all that is written.
//
// What is read comes from the network: a Reader bounds every length before it
// takes memory for it.
package pcapng
