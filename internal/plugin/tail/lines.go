package tail

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"
)

// maxLine bounds one line, in bytes; what is longer is cut. The kubelet's own
// limit for a line of a container that writes in one piece is 16 KiB, but it
// puts the pieces of longer ones together.
const maxLine = 64 << 10

// cutMark ends a line that was too long.
const cutMark = "…"

// readLines calls handle with every line of r, without its end, until r ends or
// handle fails. The last one is not whole if its end is missing. The slice is
// handle's only during the call.
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

// splitTime takes the time off that the kubelet puts before a line on request.
// The time is zero if there is none.
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
