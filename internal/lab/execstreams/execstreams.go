// Package execstreams is the server's side of an exec and of a forwarded port: what the API server says to its
// clients, and a kubelet to the API server, by WebSocket and by SPDY.
package execstreams

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Command is what is run with the streams of a request; its result goes to the error channel.
// stdin is never nil.
type Command func(stdin io.Reader, stdout, stderr io.Writer) metav1.Status

// Serve runs a command for a request that asks for stdout and stderr, and perhaps for stdin, but
// for no terminal.
func Serve(w http.ResponseWriter, r *http.Request, run Command) {
	if wsstream.IsWebSocketRequest(r) {
		webSocket(w, r, run)
		return
	}
	bySPDY(w, r, run)
}

func webSocket(w http.ResponseWriter, r *http.Request, run Command) {
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{"v5.channel.k8s.io": {Binary: true,
		Channels: []wsstream.ChannelType{wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel}}})
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return
	}
	defer conn.Close()
	finish(run(streams[0], streams[1], streams[2]), streams[3])
}

func bySPDY(w http.ResponseWriter, r *http.Request, run Command) {
	conn, opened := upgrade(w, r, "v4.channel.k8s.io")
	if conn == nil {
		return
	}
	defer conn.Close()
	want := 3
	// The API server's word for it, and the kubelet's.
	if q := r.URL.Query(); q.Get("stdin") == "true" || q.Get("input") == "1" {
		want++
	}
	streams := map[string]httpstream.Stream{}
	for len(streams) < want {
		select {
		case stream := <-opened:
			streams[stream.Headers().Get(corev1.StreamType)] = stream
		case <-conn.CloseChan():
			return
		}
	}
	var stdin io.Reader = strings.NewReader("")
	if stream := streams["stdin"]; stream != nil {
		stdin = stream
	}
	status := run(stdin, streams["stdout"], streams["stderr"])
	_ = streams["stdout"].Close()
	_ = streams["stderr"].Close()
	finish(status, streams["error"])
	_ = streams["error"].Close()
	// The client closes the connection when it has read everything.
	<-conn.CloseChan()
}

// upgrade turns a request into a connection by SPDY, whose streams come from opened. A nil conn has been refused.
func upgrade(w http.ResponseWriter, r *http.Request, protocol string) (conn httpstream.Connection, opened <-chan httpstream.Stream) {
	if _, err := httpstream.Handshake(r, w, []string{protocol}); err != nil {
		return nil, nil
	}
	streams := make(chan httpstream.Stream, 8)
	return spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		streams <- stream
		return nil
	}), streams
}

func finish(status metav1.Status, errors io.Writer) {
	text, _ := json.Marshal(status)
	_, _ = errors.Write(text)
}

// Exit is the result of a command that ended with a code.
func Exit(code int) metav1.Status {
	if code == 0 {
		return metav1.Status{Status: metav1.StatusSuccess}
	}
	return metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Details: &metav1.StatusDetails{
		Causes: []metav1.StatusCause{{Type: "ExitCode", Message: fmt.Sprint(code)}}}}
}
