//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "error: the benchmark needs Linux: network namespaces, cgroups and eBPF")
	fmt.Fprintln(os.Stderr, "hint: run it on a Linux machine as root")
	os.Exit(1)
}
