//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "error: the test cluster needs Linux\nhint: run it in a virtual machine")
	os.Exit(1)
}
