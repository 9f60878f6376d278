package parallel

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Recent[int]
		reads := 0
		var fail error
		read := func() (int, error) {
			reads++
			return reads, fail
		}
		expect := func(what string, want int) {
			t.Helper()
			if got, err := c.Get(time.Minute, read); got != want || err != nil || reads != want {
				t.Errorf("%s: %d after %d readings, %v", what, got, reads, err)
			}
		}
		expect("the first time", 1)
		expect("at once", 1)
		time.Sleep(time.Minute)
		expect("when it is old", 2)
		c.Outdate()
		expect("when it is outdated", 3)
		expect("when it was outdated", 3)
		c.Outdate()
		fail = errors.New("away")
		if _, err := c.Get(time.Minute, read); !errors.Is(err, fail) {
			t.Errorf("got %v", err)
		}
		fail = nil
		expect("after an error", 5)
		// Many who come at once share one reading.
		time.Sleep(time.Minute)
		got := make(chan int)
		for range 10 {
			go func() {
				value, _ := c.Get(time.Minute, read)
				got <- value
			}()
		}
		for range 10 {
			if value := <-got; value != 6 {
				t.Errorf("one of many: %d", value)
			}
		}
	})
}
