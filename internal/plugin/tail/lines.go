package tail

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"
)

// maxLine bounds a line, in bytes. Longer ones are cut. Container runtimes split lines
// at 16 KiB, and the kubelet joins the pieces.
const maxLine = 64 << 10

// cutMark ends a line that was cut.
const cutMark = "…"

// readLines calls handle with every line of r, without its end, until r ends or handle
// fails. The last line is not whole if its end is missing. handle must not keep the
// slice.
func readLines(r io.Reader, handle func(line []byte, whole bool) error) error {
	reader := bufio.NewReader(r)
	var line []byte
	cut := false
	for {
		piece, err := reader.ReadSlice('\n')
		if room := maxLine - len(line); len(piece) > room {
			piece, cut = piece[:room], true
		}
		line = append(line, piece...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		whole := err == nil
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			if cut {
				line = append(line, cutMark...)
			}
			if failed := handle(line, whole); failed != nil {
				return failed
			}
		}
		line, cut = line[:0], false
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// splitTime splits a line into the time that the kubelet adds on request, zero if there
// is none, and the rest.
func splitTime(line []byte) (time.Time, []byte) {
	stamp, rest, found := bytes.Cut(line, []byte(" "))
	if !found {
		return time.Time{}, line
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return time.Time{}, line
	}
	return at, rest
}
