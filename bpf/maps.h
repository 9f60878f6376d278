/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The maps. They belong to one gateway, that is to one pod and its network namespace.
 */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

/* A function that the verifier goes through once, for any arguments, and not again for every state of its
 * callers: that is most of what starting a gateway costs. Before Linux 5.12 its arguments are numbers and the
 * context, and no other pointers. */
#define GLOBAL __noinline

/* Longest prefix match over the destinations of the options. An entry takes memory only
 * when it is made; programs only read. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct destinations);
	__type(value, enum action);
} kgw_ranges SEC(".maps");

/* Longest prefix match over the sources: the ports on which strict mode allows their
 * plaintext. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct range);
	__type(value, struct ports);
} kgw_plaintext SEC(".maps");

/* Connections into private address space that no range names, by network. It stays as it is
 * when it is full: the counter goes on. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, struct range);
	__type(value, __u64);
} kgw_outside SEC(".maps");

/* Clients without a gateway that permissive mode lets in and strict mode would not, with the
 * port of the pod that they connect to. The one seen longest ago makes room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct endpoint);
	__type(value, struct seen);
} kgw_strangers SEC(".maps");

/* The excluded ports, one bit a port. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536 / 64);
	__type(key, __u32);
	__type(value, __u64);
} kgw_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} kgw_config SEC(".maps");

/* The addresses of the pod's network namespace, apart from loopback. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, __u32);
} kgw_own SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} kgw_counters SEC(".maps");

/* Whether any socket of the worker that leads to an application has got urgent data. The worker has this in its memory. It is
 * frozen: only programs can change it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} kgw_urgent SEC(".maps");

/* What a socket knows. The kernel frees it with the socket, and copies it from a
 * listener to what that accepts. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct notes);
} kgw_sockets SEC(".maps");

/* From a connecting socket to the one that accepts it. An entry lives from the SYN to
 * the end of the handshake, at most until the connecting socket closes. A full map refuses, and
 * forgets nothing: so many connections can be half way. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct tuple);
	__type(value, struct handover);
} kgw_handover SEC(".maps");

/* Destinations to which there was a connection, and when the last one began (bpf_ktime_get_ns). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct endpoint);
	__type(value, __u64);
} kgw_works SEC(".maps");

/* Inbound connections whose SYN had the option, from the SYN to the end of the handshake.
 * This map alone decides which of those are steered, so that the SYN-ACK and what the
 * gateway accepts agree. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct tuple);
	__type(value, __u32);
} kgw_shown SEC(".maps");

/* Connections in plaintext that were refused at their SYN, for the log. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} kgw_refused SEC(".maps");

/* The in-band and the capture listeners, which inband.h puts in. The kernel removes one when it is closed. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, LISTENERS);
	__type(key, enum listener);
	__type(value, __u32);
} kgw_listeners SEC(".maps");

static __always_inline struct config *get_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&kgw_config, &zero);
}

/* The old value of the field must not be used: an instruction that returns it came
 * with Linux 5.12. */
#define COUNT(field)                                                              \
	do {                                                                      \
		__u32 zero_ = 0;                                                  \
		struct counters *c_ = bpf_map_lookup_elem(&kgw_counters, &zero_); \
		if (c_)                                                           \
			__sync_fetch_and_add(&c_->field, 1);                      \
	} while (0)

/* The notes of sk, or NULL. */
static __always_inline struct notes *notes_of(struct bpf_sock *sk)
{
	return bpf_sk_storage_get(&kgw_sockets, sk, NULL, 0);
}

/* The notes of sk, which may have nothing yet, or NULL if memory has run out. */
static __always_inline struct notes *make_notes(struct bpf_sock *sk)
{
	return bpf_sk_storage_get(&kgw_sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

/* What sk knows, which may have no role, or NULL. */
static __always_inline struct handover *known(struct bpf_sock *sk)
{
	struct notes *n = notes_of(sk);

	return n ? &n->handover : NULL;
}

/* What sk knows, which may be nothing yet, or NULL if memory has run out. */
static __always_inline struct handover *remember(struct bpf_sock *sk)
{
	struct notes *n = make_notes(sk);

	return n ? &n->handover : NULL;
}

/* Has the socket of h know nothing. How it is tuned stays. */
static __always_inline void forget(struct handover *h)
{
	*h = (struct handover){};
}

static __always_inline bool has_role(const struct handover *h, enum role role)
{
	return h && h->role == role;
}
