package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
)

const testStream = 7

// stream returns the bytes of messages with these sequence numbers, the last
// one marked as the last.
func stream(sequence ...uint64) []byte {
	var b []byte
	for i, n := range sequence {
		b = appendMessage(b, testStream, message{sequence: n, last: i == len(sequence)-1, text: []byte("some text")})
	}
	return b
}

// check reads a stream to its end.
func check(b []byte) (*damage, error) {
	c := checker{r: bufio.NewReader(bytes.NewReader(b)), stream: testStream, damage: &damage{}}
	for {
		if _, err := c.receive(); err == io.EOF {
			return c.damage, nil
		} else if err != nil {
			return c.damage, c.damage.judge(err)
		}
	}
}

func TestCheckerSeesDamage(t *testing.T) {
	one := len(stream(0))
	flipped := func(at int) []byte {
		b := stream(0, 1, 2)
		b[at] ^= 0x10
		return b
	}
	foreign := append(stream(0, 1)[:one*2-one], appendMessage(nil, testStream+1, message{sequence: 1, last: true})...)
	for _, test := range []struct {
		name                                 string
		bytes                                []byte
		lost, duplicated, altered, truncated uint64
		err                                  error
	}{
		{name: "intact", bytes: stream(0, 1, 2, 3)},
		{name: "two lost", bytes: stream(0, 3), lost: 2},
		{name: "the first lost", bytes: stream(1, 2), lost: 1},
		{name: "doubled", bytes: stream(0, 1, 1, 2), duplicated: 1},
		{name: "out of order", bytes: stream(0, 2, 1, 3), lost: 1, duplicated: 1},
		{name: "text altered", bytes: flipped(one - 1), altered: 1, err: errAltered},
		{name: "sequence altered", bytes: flipped(one + 15), altered: 1, err: errAltered},
		{name: "length altered", bytes: flipped(one + 16), altered: 1, err: errAltered},
		{name: "another connection's", bytes: foreign, altered: 1, err: errAltered},
		{name: "bytes missing inside", bytes: append(stream(0, 1, 2)[:one+3], stream(0, 1, 2)[one+9:]...), altered: 1, err: errAltered},
		{name: "more after the last", bytes: append(stream(0, 1), stream(2)...), altered: 1, err: errAltered},
		{name: "ends between messages", bytes: stream(0, 1, 2)[:2*one], truncated: 1, err: errTruncated},
		{name: "ends inside a header", bytes: stream(0, 1, 2)[:2*one+3], truncated: 1, err: errTruncated},
		{name: "ends inside a text", bytes: stream(0, 1, 2)[:3*one-2], truncated: 1, err: errTruncated},
		{name: "empty", truncated: 1, err: errTruncated},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := check(test.bytes)
			if !errors.Is(err, test.err) {
				t.Errorf("error is %v, want %v", err, test.err)
			}
			for _, count := range []struct {
				name      string
				got, want uint64
			}{
				{"lost", d.Lost.Load(), test.lost}, {"duplicated", d.Duplicated.Load(), test.duplicated},
				{"altered", d.Altered.Load(), test.altered}, {"truncated", d.Truncated.Load(), test.truncated},
			} {
				if count.got != count.want {
					t.Errorf("%s is %d, want %d", count.name, count.got, count.want)
				}
			}
		})
	}
}
