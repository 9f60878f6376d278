package pcapng

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

var (
	sampleTime    = time.Unix(1700000000, 123456789)
	sampleHead    = Cooked{Protocol: 0x0800, Index: 1, Hardware: HardwareLoopback, Type: TypeOutgoing, AddressLength: 6, Address: [8]byte{1, 2, 3, 4, 5, 6}}
	samplePayload = bytes.Repeat([]byte{0x45}, 21)
)

// sample is a recording with one of everything.
func sample(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := must.Get(NewWriter(&b, "test"))(t)
	i := must.Get(w.AddInterface(Interface{Name: "lo", Description: "loopback", LinkType: LinuxSLL2, SnapLen: 4096}))(t)
	must.Do(t, w.WritePacket(i, sampleTime, 9000, sampleHead.Append(nil), samplePayload))
	must.Do(t, w.WriteStatistics(Statistics{Interface: i, Time: sampleTime, Received: 5, Dropped: 2}))
	if w.Written() != int64(b.Len()) {
		t.Errorf("%d bytes were written, the writer counts %d", b.Len(), w.Written())
	}
	return b.Bytes()
}

func TestReadsWhatIsWritten(t *testing.T) {
	text := sample(t)
	r := NewReader(bytes.NewReader(text))
	var raw []byte
	var got []Block
	for {
		b, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, b.Raw...)
		if b.Packet != nil {
			b.Packet.Data = bytes.Clone(b.Packet.Data)
		}
		got = append(got, Block{Interface: b.Interface, Packet: b.Packet, Statistics: b.Statistics})
	}
	if !bytes.Equal(raw, text) {
		t.Error("the raw blocks are not the recording")
	}
	lo := Interface{"lo", "loopback", LinuxSLL2, 4096}
	want := []Block{
		{}, // the section
		{Interface: &lo},
		{Packet: &Packet{Time: sampleTime, Length: 9000, Data: append(sampleHead.Append(nil), samplePayload...)}},
		{Statistics: &Statistics{Time: sampleTime, Received: 5, Dropped: 2}},
	}
	expect.Equal(t, "the blocks", want, got)
	expect.Equal(t, "the interfaces", []Interface{lo}, r.Interfaces())
	head, rest, ok := ParseCooked(want[2].Packet.Data)
	if !ok || head != sampleHead || !bytes.Equal(rest, samplePayload) {
		t.Errorf("the header is read as %+v, with %q behind it", head, rest)
	}
}

func TestRefusesOtherFormats(t *testing.T) {
	good := sample(t)
	for name, change := range map[string]func([]byte){
		"no section":      func(b []byte) { b[0] = 1 },
		"big-endian":      func(b []byte) { copy(b[8:], []byte{0x1a, 0x2b, 0x3c, 0x4d}) },
		"version":         func(b []byte) { b[12] = 2 },
		"a huge block":    func(b []byte) { b[7] = 0x7f },
		"a tiny block":    func(b []byte) { copy(b[4:], []byte{8, 0, 0, 0}) },
		"an odd length":   func(b []byte) { b[4]++ },
		"unequal lengths": func(b []byte) { b[order.Uint32(b[4:])-4] ^= 4 },
	} {
		b := bytes.Clone(good)
		change(b)
		r := NewReader(bytes.NewReader(b))
		if err := drain(r); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := drain(NewReader(bytes.NewReader(good[:len(good)-1]))); err != io.ErrUnexpectedEOF {
		t.Errorf("a cut recording: %v", err)
	}
}

func drain(r *Reader) error {
	for {
		if _, err := r.Next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// TestTcpdumpReads has another implementation read what is written.
func TestTcpdumpReads(t *testing.T) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tcpdump is needed")
		}
		t.Skip("tcpdump is needed")
	}
	file := filepath.Join(t.TempDir(), "x.pcapng")
	must.Do(t, os.WriteFile(file, sample(t), 0o600))
	out, err := exec.Command("tcpdump", "--nano", "-ttnr", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "LINUX_SLL2") || !strings.Contains(string(out), "1700000000.123456789") {
		t.Errorf("tcpdump: %v\n%s", err, out)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(sample(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		var raw int
		for {
			b, err := r.Next()
			if err != nil {
				break
			}
			raw += len(b.Raw)
			if b.Packet != nil {
				_ = r.Interfaces()[b.Packet.Interface]
				ParseCooked(b.Packet.Data)
			}
			if b.Statistics != nil {
				_ = r.Interfaces()[b.Statistics.Interface]
			}
		}
		if raw > len(data) {
			t.Errorf("%d bytes of blocks out of %d", raw, len(data))
		}
	})
}
