//go:build linux

package handoff

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// patience bounds waits that end by their condition.
const patience = time.Minute

// pair returns the supervisor's and the child's end of a packet socket.
func pair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	ours, file, err := packetSocket("child")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	theirs = must.Get(unixConn(file))(t)
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// ends returns both ends of a channel.
func ends(t *testing.T) (*Channel, workerChannel) {
	t.Helper()
	ours, theirs := pair(t)
	return &Channel{conn: ours}, workerChannel{theirs}
}

func sealed(t *testing.T, config string) *os.File {
	t.Helper()
	f := must.Get((&Material{Config: []byte(config), Key: []byte("key")}).Seal())(t)
	t.Cleanup(func() { f.Close() })
	return f
}

// follow runs a worker's side and returns the error that it ends with.
func follow(ctx context.Context, c workerChannel, apply func(*Material) error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- (&Worker{channel: c}).Follow(ctx, apply) }()
	return done
}

func TestSettingsReachTheWorker(t *testing.T) {
	ours, theirs := ends(t)
	var got []string
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := follow(ctx, theirs, func(m *Material) error {
		if string(m.Key) != "key" {
			t.Error("the key is missing")
		}
		got = append(got, string(m.Config))
		if string(m.Config) == "bad" {
			return errors.New("no such\nmode")
		}
		return nil
	})
	if err := ours.Apply(sealed(t, "one"), patience); err != nil {
		t.Error(err)
	}
	var refused *RefusedError
	if err := ours.Apply(sealed(t, "bad"), patience); !errors.As(err, &refused) || refused.words != "no such mode" {
		t.Errorf("bad settings: %v", err)
	}
	if err := ours.Apply(sealed(t, "two"), patience); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
	if strings.Join(got, " ") != "one bad two" {
		t.Errorf("the worker was given %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("asked to end: %v", err)
	}
	if err := ours.Apply(sealed(t, "three"), patience); !errors.Is(err, ErrNoWorker) {
		t.Errorf("without a worker: %v", err)
	}
}

// TestWishesThatNobodyHears: a worker does not wait for them, and the supervisor hears one of them later.
func TestWishesThatNobodyHears(t *testing.T) {
	wishes, wish, err := os.Pipe()
	must.Do(t, err)
	defer wishes.Close()
	defer wish.Close()
	var w Worker
	must.Do(t, w.wishBy(wish))
	// A pipe holds no more than a MiB (pipe(7)).
	for n := 0; err == nil && n <= 1<<20; n++ {
		err = w.WishReplacement()
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a full pipe: %v", err)
	}
	must.Do(t, (&Channel{wishes: wishes}).AwaitWish())
}

func TestWorkerEndsWithoutASupervisor(t *testing.T) {
	ours, theirs := ends(t)
	done := follow(t.Context(), theirs, func(*Material) error { return nil })
	ours.Close()
	if err := <-done; !errors.Is(err, io.EOF) {
		t.Errorf("the worker goes on with %v", err)
	}
}

// TestMaterialWaits: a worker is started without material, and has it when it says that its memory is
// hidden, not before.
func TestMaterialWaits(t *testing.T) {
	material := sealed(t, "first")
	channel, start, err := ForWorker(material, nil, &Listeners{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer channel.Close()
	for _, f := range start.Files {
		if f != nil && os.SameFile(must.Get(f.Stat())(t), must.Get(material.Stat())(t)) {
			t.Error("a worker is started with the material")
		}
	}
	// The supervisor may have other settings by then.
	material.Close()
	worker := workerChannel{must.Get(unixConn(start.end))(t)}
	defer worker.conn.Close()
	type answer struct {
		confinement api.Confinement
		err         error
	}
	ready := make(chan answer, 1)
	go func() {
		c, err := channel.AwaitReady()
		ready <- answer{c, err}
	}()
	worker.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, _, err := worker.receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("before it is hidden: %v", err)
	}
	worker.conn.SetReadDeadline(time.Time{})
	if m := must.Get(worker.begin())(t); string(m.Config) != "first" || string(m.Key) != "key" {
		t.Errorf("the material is %s", m.Config)
	}
	want := api.Confinement{Seccomp: true, Landlock: 7}
	must.Do(t, (&Worker{channel: worker}).Ready(want))
	if got := <-ready; got.err != nil || got.confinement != want {
		t.Errorf("ready: %+v", got)
	}
}

// TestBrokenStart: a worker that says anything else first gets no material.
func TestBrokenStart(t *testing.T) {
	for name, c := range map[string]struct {
		says []reply
		want string
	}{
		"gone":          {want: "EOF"},
		"ready at once": {says: []reply{{kind: replyReady}}, want: "before it was ready"},
		"hidden twice":  {says: []reply{{kind: replyHidden}, {kind: replyHidden}}, want: "before it was ready"},
		"gone then":     {says: []reply{{kind: replyHidden}}, want: "EOF"},
	} {
		ours, theirs := ends(t)
		ours.first = sealed(t, "x")
		for _, r := range c.says {
			must.Do(t, theirs.send(r))
		}
		if c.want == "EOF" {
			theirs.conn.Close()
		}
		if _, err := ours.AwaitReady(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBrokenWorker: whatever else a worker says or does not, it is no yes.
func TestBrokenWorker(t *testing.T) {
	short := 50 * time.Millisecond
	for name, c := range map[string]struct {
		packets [][]byte
		end     bool
		timeout time.Duration
		want    string
	}{
		"silent":       {timeout: short, want: "did not apply the settings"},
		"gone":         {end: true, timeout: patience, want: "ended before it applied"},
		"garbage":      {packets: [][]byte{[]byte("garbage")}, timeout: patience, want: "7 bytes"},
		"large":        {packets: [][]byte{make([]byte, 10*maxReply)}, timeout: patience, want: "1025 bytes"},
		"ready again":  {packets: [][]byte{reply{kind: replyReady}.encode()}, timeout: patience, want: "not about these settings"},
		"another":      {packets: [][]byte{reply{kind: replyApplied, number: 2}.encode()}, timeout: patience, want: "not about these settings"},
		"said before":  {packets: [][]byte{reply{kind: replyApplied}.encode(), reply{kind: replyApplied, number: 1}.encode()}, timeout: patience, want: "not about these settings"},
		"refuses else": {packets: [][]byte{reply{kind: replyRefused, number: 9, words: "no"}.encode()}, timeout: patience, want: "not about these settings"},
	} {
		ours, theirs := ends(t)
		for _, p := range c.packets {
			if _, err := theirs.conn.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if c.end {
			go func() {
				_, f, err := theirs.receive()
				if err == nil {
					f.Close()
				}
				theirs.conn.Close()
			}()
		}
		err := ours.Apply(sealed(t, "x"), c.timeout)
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrNoWorker) || errors.As(err, new(*RefusedError)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestFilesOfAWorkerAreNotTaken: a worker cannot fill its supervisor with files.
func TestFilesOfAWorkerAreNotTaken(t *testing.T) {
	ours, theirs := ends(t)
	count := func() int {
		list := must.Get(os.ReadDir("/proc/self/fd"))(t)
		return len(list)
	}
	f := sealed(t, "x")
	before := count()
	for range 20 {
		if _, _, err := theirs.conn.WriteMsgUnix(reply{kind: replyReady}.encode(), unix.UnixRights(int(f.Fd())), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := ours.receive(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after != before {
		t.Errorf("%d files before, %d after", before, after)
	}
}

// TestOddSettings: what is not settings ends the worker's side, with no file left.
func TestOddSettings(t *testing.T) {
	f := sealed(t, "x")
	for name, send := range map[string]func(*Channel) error{
		"no file": func(c *Channel) error { _, err := c.conn.Write(make([]byte, 8)); return err },
		"two files": func(c *Channel) error {
			_, _, err := c.conn.WriteMsgUnix(make([]byte, 8), unix.UnixRights(int(f.Fd()), int(f.Fd())), nil)
			return err
		},
		"short": func(c *Channel) error {
			_, _, err := c.conn.WriteMsgUnix(make([]byte, 7), unix.UnixRights(int(f.Fd())), nil)
			return err
		},
	} {
		ours, theirs := ends(t)
		must.Do(t, send(ours))
		if _, _, err := theirs.receive(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
