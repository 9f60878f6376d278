/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * A SYN that is refused becomes the RST that answers it: as no connection comes into being, its client
 * sends nothing.
 */
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <stddef.h>

#include "socket.h"

/* The 14 bytes of a TCP header from the source port to the flags. */
struct tcp_start {
	__be16 source, dest;
	__be32 seq, ack;
	__be16 flags; /* with the header's length */
} __attribute__((packed));

#define TCP_LENGTH bpf_htons(0xf000)
#define TCP_RST bpf_htons(0x0004)
#define TCP_RST_ACK bpf_htons(0x0014)

/* The length of the link layer's header, or -1. Of an interface without a link layer it is 0. */
GLOBAL int link_length(struct __sk_buff *skb)
{
	__u64 network[2], at[2];

	if (bpf_skb_load_bytes_relative(skb, 0, network, sizeof(network), BPF_HDR_START_NET))
		return -1;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, at, sizeof(at)) == 0 && at[0] == network[0] && at[1] == network[1])
		return ETH_HLEN;
	if (bpf_skb_load_bytes(skb, 0, at, sizeof(at)) == 0 && at[0] == network[0] && at[1] == network[1])
		return 0;
	return -1;
}

/* Exchanges two addresses of length bytes each: no checksum changes. */
#define EXCHANGE(skb, at, length)                                                                    \
	({                                                                                           \
		struct { __u8 a[length], b[length]; } was_, is_;                                     \
		long failed_ = bpf_skb_load_bytes(skb, at, &was_, sizeof(was_));                     \
		if (!failed_) {                                                                      \
			__builtin_memcpy(is_.a, was_.b, length);                                     \
			__builtin_memcpy(is_.b, was_.a, length);                                     \
			failed_ = bpf_skb_store_bytes(skb, at, &is_, sizeof(is_), 0);                \
		}                                                                                    \
		failed_;                                                                             \
	})

/* Makes a SYN the RST by which its sender would end the connection. at is where TCP begins. */
GLOBAL int make_own_rst(struct __sk_buff *skb, __u32 at)
{
	__u32 check = at + offsetof(struct tcphdr, check);
	struct tcp_start was, is;

	if (bpf_skb_load_bytes(skb, at, &was, sizeof(was)))
		return false;
	is = was;
	is.seq = bpf_htonl(bpf_ntohl(was.seq) + 1);
	is.flags = (was.flags & TCP_LENGTH) | TCP_RST;
	return !bpf_l4_csum_replace(skb, check, was.seq, is.seq, 4) &&
	       !bpf_l4_csum_replace(skb, check, was.flags, is.flags, 2) &&
	       !bpf_skb_store_bytes(skb, at, &is, sizeof(is), 0);
}

/* Makes the RST of a SYN. tcp is where TCP begins, from the network header on, link the length of
 * what comes before. The options stay: a RST may have any. */
GLOBAL int make_rst(struct __sk_buff *skb, __u32 link, __u32 tcp)
{
	__u32 at = link + tcp, check = at + offsetof(struct tcphdr, check);
	struct tcp_start was, is;
	long failed;

	if (bpf_skb_load_bytes(skb, at, &was, sizeof(was)))
		return false;
	is.source = was.dest;
	is.dest = was.source;
	is.seq = 0;
	is.ack = bpf_htonl(bpf_ntohl(was.seq) + 1);
	is.flags = (was.flags & TCP_LENGTH) | TCP_RST_ACK;
	failed = bpf_l4_csum_replace(skb, check, was.seq, is.seq, 4) ||
		 bpf_l4_csum_replace(skb, check, was.ack, is.ack, 4) ||
		 bpf_l4_csum_replace(skb, check, was.flags, is.flags, 2) ||
		 bpf_skb_store_bytes(skb, at, &is, sizeof(is), 0);
	if (skb->protocol == bpf_htons(ETH_P_IP))
		failed = failed || EXCHANGE(skb, link + offsetof(struct iphdr, saddr), 4);
	else
		failed = failed || EXCHANGE(skb, link + offsetof(struct ipv6hdr, saddr), 16);
	if (link)
		failed = failed || EXCHANGE(skb, 0, ETH_ALEN);
	return !failed;
}
