//go:build linux

package bpf

// Little-endian covers amd64 and arm64. The paths are part of no debug
// information that stays in the object, so that every run gives the same bytes.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -tags linux -no-global-types -type config -type counters -type range -type endpoint -type handover -type tuple objects gateway.c -- -O2 -g -mcpu=v2 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
