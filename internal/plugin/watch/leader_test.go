package watch

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// replica competes until ctx ends; leading counts those that lead.
func replica(ctx context.Context, client *fake.Clientset, name string, leading *atomic.Int32) chan error {
	done := make(chan error, 1)
	go func() {
		e := &Election{Client: client, Namespace: "kube-gateway", Identity: name}
		done <- e.Lead(ctx, func(ctx context.Context) error {
			leading.Add(1)
			<-ctx.Done()
			// Work that was begun takes a while to end.
			time.Sleep(3 * time.Second)
			leading.Add(-1)
			return nil
		})
	}()
	synctest.Wait()
	return done
}

func TestOneReplicaLeadsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var first, second atomic.Int32
		ctx1, stop1 := context.WithCancel(t.Context())
		ctx2, stop2 := context.WithCancel(t.Context())
		defer stop2()
		done1 := replica(ctx1, client, "one", &first)
		done2 := replica(ctx2, client, "two", &second)
		time.Sleep(10 * time.Minute)
		if first.Load() != 1 || second.Load() != 0 {
			t.Fatalf("leading: %d and %d", first.Load(), second.Load())
		}
		start := time.Now()
		stop1()
		for second.Load() == 0 {
			if time.Since(start) > time.Minute {
				t.Fatal("nobody takes over from one that ended in order")
			}
			if time.Sleep(100 * time.Millisecond); first.Load()+second.Load() > 1 {
				t.Fatal("two lead at a time")
			}
		}
		if err := <-done1; err != nil {
			t.Errorf("one that was ended: %v", err)
		}
		stop2()
		if err := <-done2; err != nil {
			t.Errorf("the other that was ended: %v", err)
		}
	})
}

func TestOneThatWaitsEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var first, second atomic.Int32
		ctx1, stop1 := context.WithCancel(t.Context())
		done1 := replica(ctx1, client, "one", &first)
		ctx2, stop2 := context.WithCancel(t.Context())
		done2 := replica(ctx2, client, "two", &second)
		start := time.Now()
		stop2()
		if err := <-done2; err != nil || time.Since(start) > time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		stop1()
		<-done1
	})
}

func TestALeaderKeepsItsLeaseThroughAShortOutage(t *testing.T) {
	for _, c := range []struct {
		outage time.Duration
		lost   bool
	}{{time.Minute, false}, {3 * time.Minute, true}} {
		synctest.Test(t, func(t *testing.T) {
			client := fake.NewClientset()
			var leading atomic.Int32
			var down atomic.Bool
			client.PrependReactor("*", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
				return down.Load(), nil, apierrors.NewServiceUnavailable("away")
			})
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			done := replica(ctx, client, "one", &leading)
			time.Sleep(time.Minute)
			down.Store(true)
			time.Sleep(c.outage)
			down.Store(false)
			time.Sleep(time.Minute)
			select {
			case err := <-done:
				if !c.lost || !errors.Is(err, ErrNotLeader) {
					t.Errorf("after %s: %v", c.outage, err)
				}
			default:
				if c.lost {
					t.Errorf("it still leads after %s", c.outage)
				}
				stop()
				<-done
			}
		})
	}
}

func TestTheLeadersErrorEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Election{Client: fake.NewClientset(), Namespace: "kube-gateway", Identity: "one"}
		want := errors.New("forbidden")
		if err := e.Lead(t.Context(), func(context.Context) error { return want }); !errors.Is(err, want) {
			t.Errorf("got %v", err)
		}
	})
}
