#!/bin/sh
# Compiles gateway.c into objects_bpfel.o and inbound.c into inbound_bpfel.o, and makes their Go bindings and the numbers
# of numbers.go. With --check it writes nothing and fails if the committed files differ from what it would write.
# Needs clang-14, llvm-14 and libbpf-dev: another compiler makes other bytes.
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

# number FILE OFFSET prints a number of a section.
number() { od -An -tu4 -j"$2" -N4 "$1" | tr -d ' '; }

# without_lines takes out of an object which line of the source each instruction comes from: half of the object, which each gateway would
# read and hand to the kernel. Messages of the verifier have them where this is left out. The section is struct btf_ext_header
# (linux/btf.h and libbpf's bpf.h), the functions, and the lines, of which the size of an entry stays.
without_lines() {
	llvm-objcopy-14 --dump-section .BTF.ext="$work/ext" "$1" "$work/object"
	head -c $(($(number "$work/ext" 4) + $(number "$work/ext" 16) + 4)) "$work/ext" >"$work/short"
	printf '\004\000\000\000' | dd of="$work/short" bs=1 seek=20 conv=notrunc status=none # line_info_len
	llvm-objcopy-14 --update-section .BTF.ext="$work/short" --remove-section .rel.BTF.ext --remove-section .rel.BTF "$work/object" "$1"
}

mkdir "$work/out"
compile objects gateway.c -type config -type counters -type range -type destinations -type ports -type address -type endpoint \
		-type handover -type answer -type tuple -type seen -type tuning
compile inbound inbound.c
for f in "$work"/out/*.o; do without_lines "$f"; done
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
