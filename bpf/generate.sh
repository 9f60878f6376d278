#!/bin/sh
# Compiles gateway.c into objects_bpfel.o and inbound.c into inbound_bpfel.o, and makes their Go bindings and the numbers
# of numbers.go. With --check it writes nothing and fails if the committed files differ from what it would write.
# Needs clang-14, llvm-strip-14 and libbpf-dev: another compiler makes other bytes.
set -eu
cd "$(dirname "$0")/.."
. build/env.sh
cd bpf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() {
	name=$1 source=$2
	shift 2
	# Only the include path of the building machine's architecture exists.
	GOPACKAGE=bpf go run github.com/cilium/ebpf/cmd/bpf2go \
		-cc clang-14 -strip llvm-strip-14 -target bpfel -tags linux -output-dir "$work/out" -no-global-types \
		"$@" "$name" "$source" -- -O2 -g -mcpu=v2 -Wall -Wextra -Werror \
		-I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
}

mkdir "$work/out"
compile objects gateway.c -type config -type counters -type range -type destinations -type ports -type address -type endpoint \
		-type handover -type answer -type tuple -type seen -type tuning
compile inbound inbound.c
numbers=$(CC=clang-14 go tool cgo -objdir "$work/cgo" -godefs numbers.go)
printf '%s\n' "$numbers" | sed '2d' | gofmt >"$work/out/numbers_linux.go" # line 2 names a directory

for f in "$work"/out/*; do
	name=$(basename "$f")
	if [ "${1-}" != --check ]; then
		cp "$f" "$name"
	elif ! cmp "$f" "$name"; then
		echo "bpf/$name is not what its source compiles to; run: go generate ./bpf" >&2
		exit 1
	fi
done
