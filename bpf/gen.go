//go:build linux

package bpf

//go:generate ./generate.sh
