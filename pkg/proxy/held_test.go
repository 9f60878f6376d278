//go:build linux

package proxy

import (
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// leave serves a connection that says ping, like an application that answers and closes.
func (f *framed) leave() {
	f.send(answered(statusOK))
	f.want(data("ping"))
	f.send(data("pong"), ending())
}

// TestHeldEnd: between gateways that are busy, the end that nobody waits for travels with the next header. It follows alone after a
// while, and before the carrier ends.
func TestHeldEnd(t *testing.T) {
	const held, sent = time.Hour, time.Nanosecond
	for name, c := range map[string]struct {
		within time.Duration
		// calm means that no other connection is open, stays that the application at the other end waits for the end.
		calm, stays bool
		// then is what the client's pod does when the connection is over.
		then func(t *testing.T, client *testPod, destination netip.AddrPort)
		// want is what the peer gets, apart.
		want func(t *testing.T, f *framed)
		// ended means that the carrier has ended then.
		ended bool
	}{
		"travels with a header": {
			within: held,
			then:   askToLeave,
			want:   wantEndAndHeader,
		},
		"is held up by what the peer does not read, and nobody else": {
			within: held,
			then: func(t *testing.T, client *testPod, destination netip.AddrPort) {
				var k *carrier
				client.count(func(p *pool) int { k = p.dialled.order.Front().Value.(*carrier); return 0 })
				k.records.mu.Lock() // as a flush that waits does
				free := sync.OnceFunc(k.records.mu.Unlock)
				defer free()
				done := make(chan struct{})
				go func() { defer close(done); askToLeave(t, client, destination) }()
				// Who looks for carriers that are dead takes the lock.
				eventually(t, "the end to be taken, and the lock to be free", func() bool {
					if !k.mu.TryLock() {
						return false
					}
					defer k.mu.Unlock()
					return !k.owesEnd
				})
				free()
				<-done
			},
			want: wantEndAndHeader,
		},
		"is sent where the next application has been reset": {
			within: held,
			then: func(t *testing.T, client *testPod, destination netip.AddrPort) {
				application, accept := collect(t, client.ip)
				app := must.Get(net.Dial("tcp", application.String()))(t).(*net.TCPConn)
				reset(accept())
				c := client.proxy.open(traffic.Outbound, app)
				c.app = app
				client.proxy.outboundTo(c, destination, true)
			},
			want:  func(_ *testing.T, f *framed) { f.want(ending()) },
			ended: true,
		},
		"follows alone":                {within: sent, want: wantEnd},
		"is sent where there is time":  {within: held, calm: true, want: wantEnd},
		"is sent where somebody waits": {within: held, stays: true, want: wantEnd},
		"precedes the carrier's end":   {within: held, then: dropCarriers, want: wantEndOfAll, ended: true},
		"precedes the end that is asked": {within: held, ended: true, want: func(t *testing.T, f *framed) {
			f.send(frame{frameGoAway, nil})
			wantEndOfAll(t, f)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthority(t)
			client := newPod(t, a, func(o *Options) { o.endWithin = c.within })
			ip := podAddress()
			destination := netip.AddrPortFrom(ip, 80)
			counters := client.proxy.options.Counters.Of(traffic.Outbound)
			others := runtime.GOMAXPROCS(0) + 1
			if c.calm {
				others = 0
			}
			carried, over := make(chan struct{}), make(chan struct{})
			defer close(over)
			var done sync.WaitGroup
			done.Add(1)
			reusingPeer(t, a, ip, func(number int, f *framed) {
				if got, err := f.next(); err != nil || got.kind != frameHeader {
					t.Errorf("got %v, %v", got.kind, err)
				}
				if number <= others {
					f.send(answered(statusOK))
					_, _ = f.next()
					return
				}
				defer func() { <-over }()
				defer done.Done()
				if c.stays {
					f.send(answered(statusOK))
					f.want(data("ping"))
					f.send(data("pong"))
					f.want(ending())
					f.send(ending())
					return
				}
				f.leave()
				if c.then != nil {
					<-carried
					if !quietStream(t, f.raw) {
						t.Error("the end has come at once")
					}
					done.Go(func() { c.then(t, client, destination) })
				}
				c.want(t, f)
			})
			for n := range others {
				client.dial(destination)
				eventually(t, "the other connections", func() bool { return counters.Encrypted.Load() == uint64(n+1) })
			}
			if c.stays {
				conn := client.dial(destination)
				write(t, conn, "ping")
				expect(t, conn, "pong")
				end(t, conn)
				hangUp(t, conn)
			} else {
				askToLeave(t, client, destination)
			}
			eventually(t, "the connection to end", func() bool { return client.proxy.live.count() == others })
			close(carried)
			done.Wait()
			eventually(t, "the carrier to wait, or to end", func() bool { return client.idle() == 1 != c.ended })
		})
	}
}

// askToLeave asks for what leave says.
func askToLeave(t *testing.T, client *testPod, destination netip.AddrPort) {
	conn := client.dial(destination)
	write(t, conn, "ping")
	expect(t, conn, "pong")
	expectEOF(t, conn)
	hangUp(t, conn)
}

func wantEndAndHeader(t *testing.T, f *framed) {
	f.want(ending())
	if len(f.b) == 0 {
		t.Error("the end has come alone")
	}
	got, err := f.next()
	if err != nil || got.kind != frameHeader {
		t.Errorf("got %v, %v", got.kind, err)
	}
	f.leave()
}

func wantEnd(_ *testing.T, f *framed) { f.want(ending()) }

func wantEndOfAll(t *testing.T, f *framed) {
	f.want(ending())
	if got, err := f.next(); err != io.EOF {
		t.Errorf("got %v, %v; want the end of the carrier", got.kind, err)
	}
}

func dropCarriers(_ *testing.T, client *testPod, _ netip.AddrPort) { client.proxy.carriers.drop() }

// TestEndWithHeader: the accepting side ends one connection and begins the next with one record.
func TestEndWithHeader(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	s := newStranger(t, a, server)
	f := s.framed(server)
	destination := application(t, server.ip, func(conn *net.TCPConn) {
		expect(t, conn, "ping")
		write(t, conn, "pong")
	})
	next := []frame{headed(header{Destination: destination, Client: netip.AddrPortFrom(s.ip, 4000)}), data("ping")}
	f.send(next...)
	for range 3 {
		f.want(answered(statusOK), data("pong"), ending())
		f.send(append([]frame{ending()}, next...)...)
	}
	f.want(answered(statusOK), data("pong"), ending())
	if n := server.proxy.options.Counters.Of(traffic.Inbound).Encrypted.Load(); n != 4 {
		t.Errorf("%d connections", n)
	}
}
