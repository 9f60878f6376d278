#!/bin/sh
# Compiles gateway.c into objects_bpfel.o, inbound.c into inbound_bpfel.o, and their Go bindings. With --check it writes
# nothing and fails if the committed files are not what the compiler makes.
# Needs clang-14, llvm-strip-14 and libbpf-dev: another compiler makes other bytes.
set -eu
cd "$(dirname "$0")/.."
. build/env.sh
cd bpf

generate() {
	compile "$1" objects gateway.c \
		-type config -type counters -type range -type endpoint -type handover -type tuple
	compile "$1" inbound inbound.c
}

compile() {
	dir=$1 name=$2 source=$3
	shift 3
	# Only the include path of the building machine's architecture exists.
	GOPACKAGE=bpf go run github.com/cilium/ebpf/cmd/bpf2go \
		-cc clang-14 -strip llvm-strip-14 -target bpfel -tags linux -output-dir "$dir" -no-global-types \
		"$@" "$name" "$source" -- -O2 -g -mcpu=v2 -Wall -Wextra -Werror \
		-I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
}

if [ "${1-}" != --check ]; then
	generate .
	exit
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
generate "$dir"
for f in objects_bpfel.go objects_bpfel.o inbound_bpfel.go inbound_bpfel.o; do
	if ! cmp "$dir/$f" "$f"; then
		echo "bpf/$f is not what its source compiles to; run: go generate ./bpf" >&2
		exit 1
	fi
done
