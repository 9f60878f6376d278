//go:build linux

package handoff

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
)

// Listeners are the sockets that a worker inherits. The supervisor keeps them open across
// workers, so that connections wait in the backlog for the next one.
type Listeners struct {
	// Capture holds one listener for each address family of loopback.
	Capture []*os.File
	// Peer accepts connections of other gateways.
	Peer *os.File
	// Inband accepts the connections that the eBPF programs steer there. It has one
	// listener for each address family of loopback.
	Inband []*os.File
	// Edges is the Unix socket of ServeEdges.
	Edges *os.File
	// Waiting are the raw sockets of bpf.Programs.Hold for Capture, or nil.
	Waiting []*os.File
	// Urgent is that of bpf.Programs.Urgent, or nil.
	Urgent *os.File
	// Sources6 says that the worker can dial applications from bpf.Sources6.
	Sources6 bool
	// Shared are those that another worker serves until TakenOver.
	Shared Shared
}

// Shared says which listeners, and sockets in Waiting, another worker serves.
type Shared int

const (
	SharedNone Shared = iota
	// SharedPeer is Peer, which the worker of another gateway serves.
	SharedPeer
	// SharedAll is everything, Edges and the shared memory included, which an earlier worker of this gateway serves.
	SharedAll
)

// Signals for a worker. HandedOver ends it as SIGTERM does, because another gateway has taken over.
// TakenOver lets it serve what is Shared.
const (
	HandedOver = syscall.SIGUSR1
	TakenOver  = syscall.SIGUSR2
)

// Flags of a worker's command: how many of its files are listeners of a kind, Listeners.Sources6 and Listeners.Shared.
const (
	captureListeners = "capture-listeners"
	inbandListeners  = "inband-listeners"
	waitingSockets   = "waiting-sockets"
	memoryFiles      = "memory-files"
	urgentMap        = "urgent-map"
	manySources      = "ipv6-sources"
	sharedListeners  = "shared-listeners"
)

// ForWorker returns what a worker is started with, and the channel to it, over which the material
// follows (AwaitReady). gauge may be nil.
func ForWorker(material, counters *os.File, l *Listeners, gauge *memory.Gauge) (*Channel, *Start, error) {
	ours, theirs, err := packetSocket("worker")
	if err != nil {
		return nil, nil, err
	}
	wishes, wish, err := os.Pipe()
	first := -1
	if err == nil {
		first, err = unix.FcntlInt(material.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		ours.Close()
		theirs.Close()
		wishes.Close()
		wish.Close()
		return nil, nil, fmt.Errorf("keeping the material for the worker: %w", err)
	}
	var urgent []*os.File
	if l.Urgent != nil {
		urgent = append(urgent, l.Urgent)
	}
	return &Channel{conn: ours, wishes: wishes, first: os.NewFile(uintptr(first), "material")}, &Start{
		Args: []string{
			"--" + captureListeners, strconv.Itoa(len(l.Capture)),
			"--" + inbandListeners, strconv.Itoa(len(l.Inband)),
			"--" + waitingSockets, strconv.Itoa(len(l.Waiting)),
			"--" + memoryFiles, strconv.Itoa(len(gauge.Files())),
			"--" + urgentMap + "=" + strconv.FormatBool(l.Urgent != nil),
			"--" + manySources + "=" + strconv.FormatBool(l.Sources6),
			"--" + sharedListeners, strconv.Itoa(int(l.Shared)),
		},
		Files: slices.Concat([]*os.File{theirs, wish, counters, l.Peer, l.Edges}, l.Capture, l.Inband, l.Waiting, gauge.Files(), urgent),
		end:   theirs, wish: wish,
	}, nil
}

// Worker is what a worker has from its supervisor.
type Worker struct {
	*SharedMemory
	// Capture, Peer, Inband, Edges, Sources6 and Shared are those of Listeners.
	Capture, Inband []net.Listener
	Peer, Edges     net.Listener
	Sources6        bool
	Shared          Shared
	// Waiting are those of Listeners.
	Waiting []*os.File
	// Urgent is that of Listeners.
	Urgent *os.File
	// Memory shows what is left of the pod's memory, nil if that is unknown.
	Memory *memory.Gauge

	channel workerChannel
	wish    *os.File
}

// InheritWorker takes over what ForWorker returned: args are what follows the command. It asks for the
// material: the memory and the files of this process must be out of reach of others. The
// material is not kept, as an old key must not stay in reach once there is a new one.
func InheritWorker(args []string) (*Worker, *Material, error) {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	capture := flags.Int(captureListeners, 0, "number of inherited capture listeners")
	inband := flags.Int(inbandListeners, 0, "number of inherited in-band listeners")
	waiting := flags.Int(waitingSockets, 0, "number of inherited raw sockets")
	gauge := flags.Int(memoryFiles, 0, "number of inherited files about memory")
	urgent := flags.Bool(urgentMap, false, "an inherited map tells of urgent data")
	var w Worker
	flags.BoolVar(&w.Sources6, manySources, false, "applications can be dialled from many IPv6 addresses")
	flags.IntVar((*int)(&w.Shared), sharedListeners, 0, "which listeners another worker serves")
	if err := flags.Parse(args); err != nil {
		return nil, nil, err
	}
	var files inherited
	if err := w.inherit(&files, *capture, *inband); err != nil {
		return nil, nil, err
	}
	w.Waiting = files.files("raw socket", *waiting)
	w.Memory = memory.FromFiles(files.files("memory", *gauge))
	if *urgent {
		w.Urgent = files.file("urgent data")
	}
	m, err := w.channel.begin()
	return &w, m, err
}

func (w *Worker) inherit(files *inherited, capture, inband int) error {
	conn, err := unixConn(files.file("supervisor"))
	if err != nil {
		return err
	}
	w.channel = workerChannel{conn}
	if err := w.wishBy(files.file("wish for a fresh worker")); err != nil {
		return err
	}
	counters := files.file("counters")
	defer counters.Close()
	if w.SharedMemory, err = mapShared(counters); err != nil {
		return err
	}
	if w.Peer, err = files.listener("peer listener"); err != nil {
		return err
	}
	if w.Edges, err = files.listener("socket for edges"); err != nil {
		return err
	}
	if w.Capture, err = files.listeners("capture listener", capture); err != nil {
		return err
	}
	w.Inband, err = files.listeners("in-band listener", inband)
	return err
}

// Ready tells the supervisor that the worker accepts connections, and how it is confined.
func (w *Worker) Ready(c api.Confinement) error {
	return w.channel.send(reply{kind: replyReady, number: encodeConfinement(c)})
}

// wishBy has wishes go to a pipe.
func (w *Worker) wishBy(pipe *os.File) error {
	w.wish = pipe
	// Behind Fd, which makes it block.
	return os.NewSyscallError("fcntl", unix.SetNonblock(int(pipe.Fd()), true))
}

// WishReplacement tells the supervisor that this worker has grown and is idle. It does not wait: an error means that many
// wishes have not been heard.
func (w *Worker) WishReplacement() error {
	raw, err := w.wish.SyscallConn()
	if err != nil {
		return err
	}
	// A File would wait.
	var failed error
	if err := raw.Control(func(fd uintptr) { _, failed = unix.Write(int(fd), []byte{0}) }); err != nil {
		return err
	}
	return os.NewSyscallError("write", failed)
}

// Follow hands new material to apply as the supervisor sends it, and tells the supervisor
// what became of it. It returns nil when ctx is done, and otherwise why it cannot go on:
// settings would pass this worker by.
func (w *Worker) Follow(ctx context.Context, apply func(*Material) error) error {
	defer context.AfterFunc(ctx, func() { w.channel.conn.Close() })()
	for {
		number, f, err := w.channel.receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for settings: %w", err)
		}
		answer := reply{kind: replyApplied, number: number}
		if err := applyFile(f, apply); err != nil {
			answer.kind, answer.words = replyRefused, err.Error()
		}
		if err := w.channel.send(answer); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func applyFile(f *os.File, apply func(*Material) error) error {
	defer f.Close()
	m, err := ReadMaterial(f)
	if err != nil {
		return err
	}
	return apply(m)
}
