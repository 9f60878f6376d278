//go:build linux && race

package proxy

// raceEnabled says that memory and goroutines cost more than usual.
const raceEnabled = true
