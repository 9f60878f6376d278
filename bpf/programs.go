//go:build linux

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Options says what to capture and for whom.
type Options struct {
	// Pod is where the programs attach. Own is the gateway's own cgroup below it:
	// connections of its processes are never captured.
	Pod, Own Cgroup
	// PodIPs are the addresses in the pod's status. Connections to them are never captured,
	// and captured ones keep the first of their family as local address.
	PodIPs []netip.Addr
	// Coverage says what is captured, and whose plaintext is accepted. Loopback and the
	// unspecified address are never captured, nor are IPv6 link-local addresses, which mean
	// nothing without an interface. It can change, see [Programs.Cover].
	api.Coverage
	// InbandServices captures connections to Services as well, for a worker that
	// dials them in band. Without it they pass in plaintext, and are refused in
	// strict mode.
	InbandServices bool
	// BlockUDP refuses UDP to captured ranges in strict mode (EPERM), except to
	// port 53 and to excluded ports.
	BlockUDP bool
	// Strict refuses what cannot be captured; see [Programs.SetStrict].
	Strict bool
	// KeepOnExit keeps the capture attached after the process ends, so that
	// connect(2) fails with EPERM and nothing leaves in plaintext. In strict mode
	// inbound connections that are not allowed in plaintext are dropped, too.
	KeepOnExit bool
}

// Counters counts what the programs decided since they were loaded.
type Counters = api.CaptureCounts

// Programs are the loaded programs and maps of one gateway. Its methods may be
// called from several goroutines.
type Programs struct {
	options Options
	loaded  *Loaded
	objects objectsObjects // of loaded

	mu       sync.Mutex
	config   objectsConfig
	content  content
	attached map[string]attachment
	inbound  *inbound // nil unless attached
	closed   bool
	// spread is what Spread attaches, or nil.
	spread link.Link
	// beside means that another gateway of the pod serves, see Beside.
	beside bool
	// withoutTCX is for tests: clsact as on an older kernel.
	withoutTCX bool
}

// New fills the maps of programs that are loaded, and attaches nothing. It takes l over, also if it fails.
func New(o Options, l *Loaded) (*Programs, error) {
	p := &Programs{options: o, loaded: l, objects: l.objects, config: o.config(), attached: make(map[string]attachment)}
	err := o.validate()
	if err == nil {
		err = cmp.Or(p.Cover(o.Coverage), p.putOwn(nil))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("filling the maps: %w", err), l.Close())
	}
	return p, nil
}

// What is there before it is used, as the kernel wants it for an LRU map and for the buckets of a hash map.
const (
	// halfWayCost is what a connection takes that is half way, in bytes, minHalfWay how many there may always be.
	halfWayCost = api.ConnectionMemory
	minHalfWay  = 2048
	// lruShare is how many entries of an LRU map each processor may keep to itself (LOCAL_FREE_TARGET in
	// kernel/bpf/bpf_lru_list.c, for free ones and pending ones).
	lruShare = 256
)

// size makes maps smaller whose largest size the pod's memory does not allow to fill.
func size(spec *ebpf.CollectionSpec, limit int64) error {
	if limit == 0 {
		return nil
	}
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	largest := spec.Maps["kgw_handover"].MaxEntries
	share := largest / uint32(min(max(limit/halfWayCost, minHalfWay), int64(largest)))
	for _, name := range []string{"kgw_handover", "kgw_shown", "kgw_works"} {
		m := spec.Maps[name]
		n := m.MaxEntries / share
		if m.Type == ebpf.LRUHash {
			n = max(n, uint32(lruShare*processors))
		}
		m.MaxEntries = min(n, m.MaxEntries)
	}
	return nil
}

func (o *Options) validate() error {
	switch {
	case o.Pod.Path == "" || o.Own.Path == "" || o.Own.ID == 0:
		return errors.New("a cgroup is missing")
	case o.Pod.ID == o.Own.ID:
		return errors.New("the gateway's cgroup is that of the pod")
	case !strings.HasPrefix(o.Own.Path, o.Pod.Path+"/"):
		return fmt.Errorf("cgroup %s is not below %s", o.Own.Path, o.Pod.Path)
	case strings.Count(o.Own.Rel, "/") > maxCgroupDepth:
		return fmt.Errorf("cgroup %s has more than %d levels", o.Own.Rel, maxCgroupDepth)
	}
	for _, ip := range o.PodIPs {
		if !ip.IsValid() || ip.IsUnspecified() || ip.IsLoopback() {
			return fmt.Errorf("pod address %v cannot be used", ip)
		}
	}
	return o.Coverage.Validate()
}

func (o *Options) config() objectsConfig {
	c := objectsConfig{
		Gateways:    [maxGateways]uint64{o.Own.ID},
		Strict:      flag(o.Strict),
		Closed:      flag(o.KeepOnExit),
		CapturePort: networkOrder(api.CapturePort),
		PeerPort:    networkOrder(api.PeerPort),
		InbandPort:  networkOrder(api.InbandPort),

		InbandServices: flag(o.InbandServices),
		BlockUdp:       flag(o.BlockUDP),
	}
	for _, ip := range slices.Backward(o.PodIPs) {
		if ip = ip.Unmap(); ip.Is4() {
			c.PodIp4, c.Number4 = words(ip), api.GatewayNumber(ip)
		} else {
			c.PodIp6, c.Number6 = words(ip), api.GatewayNumber(ip)
		}
	}
	return c
}

func (p *Programs) putConfig() error {
	return p.objects.KgwConfig.Put(uint32(0), &p.config)
}

// SetStrict switches between strict and permissive, for every connect(2) and every
// inbound SYN from now on. Connections that exist go on.
func (p *Programs) SetStrict(strict bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.config.Strict
	p.config.Strict = flag(strict)
	if err := p.putConfig(); err != nil {
		p.config.Strict = before
		return fmt.Errorf("setting strict to %v: %w", strict, err)
	}
	return nil
}

// Counters reads the counters.
func (p *Programs) Counters() (Counters, error) {
	var perCPU []objectsCounters
	if err := p.objects.KgwCounters.Lookup(uint32(0), &perCPU); err != nil {
		return Counters{}, fmt.Errorf("reading the counters: %w", err)
	}
	var sum Counters
	for _, c := range perCPU {
		sum.Captured += c.Captured
		sum.ServicePassed += c.ServicePassed
		sum.ServiceRefused += c.ServiceRefused
		sum.NoListener += c.NoListener
		sum.Uncapturable += c.Uncapturable
		sum.UDP += c.Udp
		sum.UDPRefused += c.UdpRefused
		sum.UDPAnswers += c.UdpAnswers
		sum.Steered += c.Steered
		sum.PlaintextRefused += c.PlaintextRefused
		sum.PlaintextAllowed += c.PlaintextAllowed
		sum.Nested += c.Nested
		sum.Forwarded += c.Forwarded
		sum.Excluded += c.Excluded
		sum.OutsideConnections += c.Outside
		sum.OutsideRefused += c.OutsideRefused
	}
	return sum, nil
}

// Close detaches everything and frees it. With KeepOnExit the capture and the ingress
// program stay attached, and refuse connections because nobody listens: call
// [Programs.Detach] before to detach those, too.
func (p *Programs) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return errors.Join(
		detach(p.attached, func(a attachment) bool { return a.link != nil }),
		p.stopInbound(p.options.KeepOnExit),
		p.stopSpread(),
		p.loaded.Close())
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
