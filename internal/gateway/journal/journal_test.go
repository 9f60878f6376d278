//go:build linux

package journal

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// spend writes as many lines of a class as there is room for, and returns their bytes.
func spend(b *Budget, class Class, size int, now time.Duration) (bytes int64) {
	for {
		if _, ok := b.Spend(class, size, now); !ok {
			return bytes
		}
		bytes += int64(size) + overhead
	}
}

// TestBound: no hour has more than the share of the limit, beyond what may come at once.
func TestBound(t *testing.T) {
	const size = 360
	for name, share := range map[string]int64{"worker": Worker, "supervisor": Supervisor} {
		var b Budget
		b.Set(&api.LogConfig{LogLimit: 8 << 20}, share)
		limit := 8 << 20 * share / quarters
		var written int64
		const hours = 24
		for now := time.Duration(0); now < hours*time.Hour; now += time.Second {
			written += spend(&b, State, size, now)
		}
		least, most := hours*limit-hours*limit/100, hours*limit+limit/api.LogBurst+size
		if written < least || written > most {
			t.Errorf("%s: %d bytes in %d hours, want %d to %d", name, written, hours, least, most)
		}
		var got api.LogStatus
		b.Add(&got)
		if got.Bytes != uint64(written) || got.Lines != uint64(written/(size+overhead)) || got.DroppedLines == 0 ||
			got.DroppedBytes != got.DroppedLines*uint64(size+overhead) {
			t.Errorf("%s: it counts %+v, and %d bytes were written", name, got, written)
		}
	}
}

// TestPrecedence: connections leave room for refusals, and both for what happens to the gateway.
func TestPrecedence(t *testing.T) {
	const now = time.Hour
	for name, config := range map[string]api.LogConfig{
		"an hour": {LogLimit: 16 << 20},
		"in all":  {LogLimit: 1 << 40, LogTotal: 2 << 20},
	} {
		var b Budget
		b.Set(&config, quarters)
		for _, class := range []Class{Ordinary, Refusal, State} {
			room := spend(&b, class, 1000, now)
			want := int64(2<<20) / quarters
			if class == Ordinary {
				want *= int64(Ordinary)
			}
			if room < want-2*(1000+overhead) || room > want+1000+overhead {
				t.Errorf("%s: class %d has room for %d bytes, want %d", name, class, room, want)
			}
		}
		for _, class := range []Class{Ordinary, Refusal, State} {
			if _, ok := b.Spend(class, 1000, now); ok {
				t.Errorf("%s: room for class %d after all is spent", name, class)
			}
		}
	}
}

// TestTotalNeverGrows: time brings nothing back of what may be written in all.
func TestTotalNeverGrows(t *testing.T) {
	var b Budget
	b.Set(&api.LogConfig{LogTotal: 64 << 10}, quarters)
	var written int64
	for day := range 1000 {
		written += spend(&b, State, 200, time.Duration(day)*24*time.Hour)
	}
	if written > 64<<10 || written < 63<<10 || !b.exhausted() {
		t.Errorf("%d bytes were written", written)
	}
}

// TestLimitIsRaised: a limit that was too low is not waited for.
func TestLimitIsRaised(t *testing.T) {
	var b Budget
	b.Set(&api.LogConfig{LogLimit: api.MinLogLimit}, quarters)
	spend(&b, State, 1000, time.Hour)
	b.Set(&api.LogConfig{LogLimit: 1 << 30}, quarters)
	now := time.Hour + time.Hour/api.LogBurst
	if room := spend(&b, Ordinary, 1000, now); room < 60<<20 {
		t.Errorf("room for %d bytes", room)
	}
}

func TestWants(t *testing.T) {
	got := map[api.Log][]Class{}
	for _, level := range append(api.Logs(), "") {
		var b Budget
		b.Set(&api.LogConfig{Log: level}, Worker)
		for _, class := range []Class{Ordinary, Refusal, State} {
			if b.Wants(class) {
				got[level] = append(got[level], class)
			}
		}
	}
	if diff := cmp.Diff(map[api.Log][]Class{
		"": {Ordinary, Refusal, State}, api.LogConnections: {Ordinary, Refusal, State},
		api.LogRefused: {Refusal, State}, api.LogNone: {State},
	}, got); diff != "" {
		t.Errorf("what is logged (-want +got):\n%s", diff)
	}
}

// TestWriter: lines are numbered without gaps, and those that are dropped are accounted for while
// nothing else is logged.
func TestWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		var budget Budget
		budget.Set(&api.LogConfig{LogLimit: api.MinLogLimit}, Supervisor)
		w := NewWriter(&out, &budget, api.LogSupervisor)
		start := time.Now()
		w.ledger.now = func() time.Duration { return time.Since(start) }
		w.ledger.reported = -time.Hour
		const logged = 1000
		for range logged {
			w.Slog(Refusal).Warn("refused", "group", map[string]int{"a": 1})
		}
		time.Sleep(2 * reportAfter)
		w.Slog(State).Error("the worker ended")

		type entry struct {
			Msg, By  string
			N, Lines int
			Bytes    int
		}
		var last entry
		written, reported := 0, 0
		for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
			last = entry{}
			if err := json.Unmarshal([]byte(line), &last); err != nil || last.N != i+1 || last.By != api.LogSupervisor {
				t.Fatalf("line %d is %s: %v", i, line, err)
			}
			switch last.Msg {
			case "refused":
				written++
			case api.LinesDroppedMessage:
				reported += last.Lines
			}
		}
		if written == 0 || written == logged || written+reported != logged || last.Msg != "the worker ended" {
			t.Errorf("%d of %d lines are written, %d reported as dropped; the last one is %+v", written, logged, reported, last)
		}
	})
}

// TestMonotonic: processes that share a budget have the same clock.
func TestMonotonic(t *testing.T) {
	machine := func() time.Duration {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			t.Fatal(err)
		}
		return time.Duration(now.Nano())
	}
	before := machine()
	clock := monotonic()
	first, second := clock(), clock()
	if after := machine(); first < before || second < first || second > after {
		t.Errorf("%v and %v are not between %v and %v", first, second, before, after)
	}
}
