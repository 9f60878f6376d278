// Command operator is an operator of the end-to-end tests. It watches ConfigMaps while it
// holds a Lease. One with "ask: ADDRESS TEXT" has it send the text to the address, and write
// what comes back, and who it is, into the same ConfigMap. It knows nothing of gateways.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const (
	leaseName = "operator"
	// Shorter than usual, so that a leader that hangs is soon replaced.
	leaseDuration = 10 * time.Second
	renewDeadline = 8 * time.Second
	retryPeriod   = 500 * time.Millisecond
	dialTimeout   = 5 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("NAMESPACE")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, namespace string) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	o := &operator{client: client, namespace: namespace, name: name}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: leaseName}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: o.lead, OnStoppedLeading: func() { log.Print("stopped leading") }},
	})
	if err != nil {
		return err
	}
	// It ends with the lease, and starts anew.
	elector.Run(ctx)
	return nil
}

// operator works for the ConfigMaps of a namespace.
type operator struct {
	client          kubernetes.Interface
	namespace, name string
	// watches counts those that were opened.
	watches atomic.Int64
}

// lead watches until ctx is done.
func (o *operator) lead(ctx context.Context) {
	maps := o.client.CoreV1().ConfigMaps(o.namespace)
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return maps.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			o.watches.Add(1)
			return maps.Watch(ctx, options)
		},
	}
	work := func(given any) {
		if err := o.work(ctx, given.(*corev1.ConfigMap)); err != nil && ctx.Err() == nil {
			log.Print(err)
		}
	}
	informer := cache.NewSharedInformer(source, &corev1.ConfigMap{}, 0)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: work, UpdateFunc: func(_, given any) { work(given) },
	}); err != nil {
		log.Fatal(err)
	}
	informer.RunWithContext(ctx)
}

// work answers a ConfigMap that asks and has no answer.
func (o *operator) work(ctx context.Context, given *corev1.ConfigMap) error {
	var address, text string
	if _, err := fmt.Sscan(given.Data["ask"], &address, &text); err != nil || given.Data["answer"] != "" {
		return nil
	}
	answer, err := ask(ctx, address, text)
	if err != nil {
		answer = "error: " + err.Error()
	}
	written := given.DeepCopy()
	written.Data["answer"], written.Data["by"], written.Data["watches"] = answer, o.name, strconv.FormatInt(o.watches.Load(), 10)
	_, err = o.client.CoreV1().ConfigMaps(o.namespace).Update(ctx, written, metav1.UpdateOptions{})
	return err
}

// ask sends a line to address, and returns all that comes back.
func ask(ctx context.Context, address, text string) (string, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(dialTimeout))
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	received, err := io.ReadAll(conn)
	return string(received), err
}
