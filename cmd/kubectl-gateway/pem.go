package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// maxPEMFile bounds what --from-cert and --from-key read, in bytes.
const maxPEMFile = 1 << 20

// readBounded reads a file, a pipe included, of which at least one byte and at
// most maxPEMFile are expected.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxPEMFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) == 0:
		return nil, errors.New(path + " is empty")
	case len(text) > maxPEMFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxPEMFile)
	}
	return text, nil
}
