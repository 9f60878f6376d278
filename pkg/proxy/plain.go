//go:build linux

package proxy

import (
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// pass carries plaintext from the socket of source to another until the end of file, which it passes on.
// Little data is copied through a buffer. After a read that fills its buffer, queued data is
// spliced within the kernel; the pipe that splicing needs is held no longer than that.
//
// ended says of the socket to that nothing more is written to it.
func (p *Proxy) pass(to stream, source *plainReader, ended *atomic.Bool, count *atomic.Uint64) error {
	from := source.conn
	source.findUrgent(true)
	for {
		b, n, err := source.next()
		if n > 0 {
			var writeErr error
			if source.urgent {
				writeErr = writeUrgent(to, b.b[:n])
			} else {
				_, writeErr = to.Write(b.b[:n])
			}
			p.pools.put(b)
			if writeErr != nil {
				return fmt.Errorf("writing: %w", writeErr)
			}
			count.Add(uint64(source.fresh))
		}
		switch {
		case err == io.EOF:
			if err := sendFIN(to, ended); err != nil {
				return fmt.Errorf("passing on the end: %w", err)
			}
			return nil
		case err != nil:
			return fmt.Errorf("reading: %w", err)
		}
		for source.pace.class >= classBatch {
			queued, err := queuedBytes(source)
			if err != nil {
				return err
			}
			if queued < sealPayload[classRecord] {
				source.pace = pace{class: classRecord}
				break
			}
			spliced, err := p.splice(to, from, queued)
			source.taken += uint64(spliced)
			count.Add(uint64(spliced))
			if err != nil {
				return fmt.Errorf("splicing: %w", err)
			}
			if spliced == 0 {
				// Urgent data is in the way.
				source.pace = pace{class: classRecord}
				break
			}
		}
	}
}

// queuedBytes returns how much can be read without waiting.
func queuedBytes(source *plainReader) (n int, err error) {
	if err := control(source.raw, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.SIOCINQ)
		return err
	}); err != nil {
		return 0, fmt.Errorf("asking for queued bytes: %w", err)
	}
	return n, nil
}
