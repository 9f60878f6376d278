package tail

import (
	"context"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// whole reports whether all lines of each log are asked for.
func (o *Options) whole() bool { return o.Lines < 0 && o.Since == 0 }

// maxProcesses bounds the processes whose lines are counted, and maxName the length of their names, in bytes. A gateway has a
// supervisor, and one worker after the other.
const (
	maxProcesses = 256
	maxName      = 64
)

// missing returns how many lines are missing before a line with this number.
func (at *cursor) missing(n number) uint64 {
	last, known := at.numbers[n.By]
	if n.N == 0 || len(n.By) > maxName || !known && len(at.numbers) >= maxProcesses {
		return 0
	}
	if at.numbers == nil {
		at.numbers = map[string]uint64{}
	}
	at.numbers[n.By] = n.N
	if (!known && !at.fromStart) || n.N <= last {
		return 0
	}
	return n.N - last - 1
}

// reportMissing reports the lines that are missing before the one with this number.
func (t *Tailer) reportMissing(pod *corev1.Pod, at *cursor, n number) {
	_, known := at.numbers[n.By]
	lost := at.missing(n)
	switch {
	case lost == 0:
	case !known && t.Options.Since > 0:
		t.report(pod, warning, fmt.Sprintf("%d lines before the first one are lost, and some may be younger than --since: the node has rotated them away", lost), "")
	default:
		t.report(pod, warning, fmt.Sprintf("%d lines of the log are lost: the node has rotated them away, or a worker was killed", lost), "")
	}
}

// maxStamp is more than the time in front of a line takes, in bytes.
const maxStamp = 64

// begins reports whether the log that the node has of at begins with a line of this time. Older ones
// are rotated away then, whether they were asked for or not.
func (t *Tailer) begins(ctx context.Context, pod *corev1.Pod, at *cursor, stamp time.Time) bool {
	options := &corev1.PodLogOptions{Container: at.container, Timestamps: true, LimitBytes: new(int64(maxStamp))}
	body, err := t.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).Stream(ctx)
	if err != nil {
		return false // the stream says why
	}
	defer body.Close()
	text, _ := io.ReadAll(io.LimitReader(body, maxStamp))
	oldest, _ := splitTime(text)
	return !oldest.Before(stamp)
}
