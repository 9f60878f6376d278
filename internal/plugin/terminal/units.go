package terminal

import (
	"fmt"
	"strconv"
)

// Bytes formats n in the largest binary unit of which it is at least 1, with one digit
// after the point: 1536 is 1.5KiB.
func Bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return strconv.FormatUint(n, 10) + "B"
	}
	value, unit := float64(n)/(1<<10), 0
	// 1023.95 would be rounded up to 1024.0 of the same unit.
	for value >= 1023.95 && unit < len(units)-1 {
		value /= 1 << 10
		unit++
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + string(units[unit]) + "iB"
}

// Plural is how many things there are: 1 pod, 2 pods.
func Plural[N int | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
