/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Urgent data of applications. To read without asking each time whether the next byte is urgent, the worker has to know
 * that none is. The kernel shows programs the segments of a socket that are not what it expects next, under the socket's
 * lock and before it looks for urgent data in them itself. Those with URG are among them, as it never expects that flag.
 */
#pragma once

#include <linux/tcp.h>

#include "socket.h"

#define TH_SYN 0x02
#define TH_ACK 0x10
#define TH_URG 0x20

/* Has the kernel show what comes to the socket from now on. Not only this program may be shown segments: they stay as
 * they are. */
static __always_inline void find_urgent(struct bpf_sock_ops *ctx)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG);
}

/* From now on the worker asks before it reads. */
static __always_inline void set_urgent(void)
{
	__u32 zero = 0, *seen = bpf_map_lookup_elem(&kgw_urgent, &zero);

	if (seen)
		*seen = 1;
}

/* Notes that a segment has urgent data, and where the first such byte is that any pointer of the connection is at. What the worker
 * reads while kgw_urgent becomes 1 may begin with that one, and with no later one. Which byte a pointer is at, and which one is
 * ignored, is as in tcp_check_urg() of net/ipv4/tcp_input.c; the supervisor knows about net.ipv4.tcp_stdurg. */
static __always_inline void note_urgent(struct bpf_sock_ops *ctx)
{
	struct tcphdr *th = ctx->skb_data;
	void *end = ctx->skb_data_end;
	struct bpf_sock *sk = ctx->sk;
	__u32 pointer, ahead;
	struct notes *n;

	if (!(ctx->skb_tcp_flags & TH_URG) || !sk || (void *)(th + 1) > end)
		return;
	n = notes_of(sk);
	if (!n || (n->handover.role != ROLE_GATEWAY && n->handover.role != ROLE_HANDED_OVER))
		return;
	pointer = bpf_ntohs(th->urg_ptr);
	ahead = bpf_ntohl(th->seq) + pointer - (pointer ? 1 : 0) - ctx->rcv_nxt;
	/* The largest pointer says that the byte is somewhere behind that. */
	if ((__s32)ahead >= 0 && pointer != 0xffff && !n->urgent)
		n->urgent = ctx->bytes_received + ahead + 1;
	set_urgent();
}
