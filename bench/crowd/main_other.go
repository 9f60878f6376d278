//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "error: the embedded cluster's programs run on Linux only")
	os.Exit(1)
}
