//go:build linux

package handoff

import (
	"net"
	"os"
)

// ForLoader returns what a loader is started with, and the socket on which it hands over what it has loaded.
func ForLoader() (*net.UnixConn, *Start, error) {
	ours, theirs, err := packetSocket("loader")
	if err != nil {
		return nil, nil, err
	}
	return ours, &Start{Files: []*os.File{theirs}, end: theirs}, nil
}

// InheritLoader returns the loader's end.
func InheritLoader() (*net.UnixConn, error) {
	var from inherited
	return unixConn(from.file("supervisor"))
}
