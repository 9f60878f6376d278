//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "error: the kernels of Debian are tested from Linux: apt, dpkg and QEMU are needed")
	os.Exit(1)
}
