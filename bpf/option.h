/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The TCP option: an experimental one (RFC 4727, kind 253) with an identifier of 32
 * bits (RFC 6994) and a version. An option with another version is not ours.
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <linux/types.h>
#include <stdbool.h>

#define OPTION_KIND 253
#define OPTION_EXID bpf_htonl(0x6b677779) /* "kgwy" */
#define OPTION_VERSION 1

struct option {
	__u8 kind, len;
	__u32 exid;
	__u8 version;
} __attribute__((packed));

#define OPTION { OPTION_KIND, sizeof(struct option), OPTION_EXID, OPTION_VERSION }

/* A second option of a SYN-ACK: which gateway has answered, and on which port. Its identifier differs from the first one's in
 * the first two bytes, by which the kernel tells options of this kind apart. Together the two fit beside the usual
 * options of a SYN-ACK, which leave 20 bytes. */
#define ANSWER_EXID bpf_htonl(0x676b7761) /* "gkwa" */

struct answer_option {
	__u8 kind, len;
	__u32 exid;
	__u32 gateway; /* network order, as the port */
	__u16 port;
} __attribute__((packed));

static __always_inline bool is_ours(const struct option *o)
{
	return o->kind == OPTION_KIND && o->len == sizeof(*o) && o->exid == OPTION_EXID && o->version == OPTION_VERSION;
}
