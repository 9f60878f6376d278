//go:build linux

package bpf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf/ringbuf"
)

// FollowRefused calls refused with both ends of every connection in plaintext that strict mode
// refused at its SYN, until ctx is done. Connections that come faster than it returns reach the
// in-band listener instead, to be reset there.
func (p *Programs) FollowRefused(ctx context.Context, refused func(client, server netip.AddrPort)) error {
	r, err := ringbuf.NewReader(p.objects.KgwRefused)
	if err != nil {
		return fmt.Errorf("following refused connections: %w", err)
	}
	defer context.AfterFunc(ctx, func() { r.Close() })()
	defer r.Close()
	var record ringbuf.Record
	for {
		err := r.ReadInto(&record)
		if errors.Is(err, ringbuf.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("following refused connections: %w", err)
		}
		var t objectsTuple
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &t); err != nil {
			return fmt.Errorf("following refused connections: %w", err)
		}
		refused(t.Client.addrPort(), t.Server.addrPort())
	}
}
