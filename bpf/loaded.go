//go:build linux

package bpf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"reflect"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Loaded is all programs and maps of one gateway, attached to nothing and without its settings. To load them takes
// several times the memory of what stays of it, and Go's heap keeps its holes. So one process can load, and another one have them.
type Loaded struct {
	objects objectsObjects
	inbound inboundPrograms
	// inboundErr is why there is no inbound.
	inboundErr error
}

// Load has the kernel load the programs. memory is what the pod may use, in bytes, 0 if there is no limit. Where
// connections that are half way would take more than that, the maps have room for fewer. If the kernel lacks something,
// the error says what, and which kernel has it.
func Load(memory int64) (*Loaded, error) {
	l := new(Loaded)
	if err := l.load(memory); err != nil {
		return nil, fmt.Errorf("loading the programs: %w", err)
	}
	l.inboundErr = l.loadInbound()
	return l, nil
}

func (l *Loaded) load(memory int64) error {
	// Up to 5.10 maps count against RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("lifting the limit on locked memory: %w", err)
	}
	spec, err := loadObjects()
	if err != nil {
		return err
	}
	if err := size(spec, memory); err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&l.objects, nil); err != nil {
		return cmp.Or(missingFeature(requirements()), err)
	}
	return l.objects.KgwUrgent.Freeze()
}

func (l *Loaded) loadInbound() error {
	spec, err := loadInbound()
	if err != nil {
		return err
	}
	shared := map[string]*ebpf.Map{
		inboundMapKgwConfig:    l.objects.KgwConfig,
		inboundMapKgwCounters:  l.objects.KgwCounters,
		inboundMapKgwHandover:  l.objects.KgwHandover,
		inboundMapKgwListeners: l.objects.KgwListeners,
		inboundMapKgwOutside:   l.objects.KgwOutside,
		inboundMapKgwOwn:       l.objects.KgwOwn,
		inboundMapKgwPlaintext: l.objects.KgwPlaintext,
		inboundMapKgwPorts:     l.objects.KgwPorts,
		inboundMapKgwRefused:   l.objects.KgwRefused,
		inboundMapKgwRanges:    l.objects.KgwRanges,
		inboundMapKgwShown:     l.objects.KgwShown,
		inboundMapKgwStrangers: l.objects.KgwStrangers,
	}
	for name, m := range shared {
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	if err := spec.Variables[inboundVarKnowsInterface].Set(knowsInterface()); err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&l.inbound, &ebpf.CollectionOptions{MapReplacements: shared}); err != nil {
		l.inbound = inboundPrograms{}
		return cmp.Or(missingFeature(inboundRequirements()), err)
	}
	return nil
}

// Close frees what no [Programs] has got.
func (l *Loaded) Close() error { return errors.Join(l.objects.Close(), l.inbound.Close()) }

// loadedMessage says what the descriptors are that come along: those of Maps, and then of Programs.
type loadedMessage struct {
	Maps, Programs []string
	// Error is why there are none, and Inbound why there are none of the inbound programs.
	Error, Inbound message
}

// message is an error for another process.
type message struct{ Text, Hint string }

func messageOf(err error) (m message) {
	if err != nil {
		m = message{api.OneLine(err.Error()), api.Hint(err)}
	}
	if len(m.Text) > maxText {
		// The cause is at the front.
		m.Text = strings.ToValidUTF8(m.Text[:maxText], "") + "..."
	}
	return m
}

func (m message) error() error {
	switch {
	case m.Text == "":
		return nil
	case m.Hint == "":
		return errors.New(m.Text)
	}
	return api.WithHint(errors.New(m.Text), m.Hint)
}

// maxLoadedMessage bounds a message, in bytes, and maxText an error in it, which may have an excerpt of the verifier's log: a
// character takes six bytes at most in JSON.
const (
	maxLoadedMessage = 64 << 10
	maxText          = 8 << 10
)

// SendLoaded gives l to the process at the other end of a packet socket, or else why there is nothing.
func SendLoaded(to *net.UnixConn, l *Loaded, failed error) error {
	m := loadedMessage{Error: messageOf(failed)}
	var descriptors []int
	if failed == nil {
		m.Inbound = messageOf(l.inboundErr)
		for name, object := range objectsIn(l.objects.objectsMaps) {
			m.Maps, descriptors = append(m.Maps, name), append(descriptors, object.FD())
		}
		sets := []any{l.objects.objectsPrograms}
		if l.inboundErr == nil {
			sets = append(sets, l.inbound)
		}
		for name, object := range objectsIn(sets...) {
			m.Programs, descriptors = append(m.Programs, name), append(descriptors, object.FD())
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var rights []byte
	if len(descriptors) > 0 {
		rights = unix.UnixRights(descriptors...)
	}
	if _, _, err := to.WriteMsgUnix(text, rights, nil); err != nil {
		return fmt.Errorf("handing the programs over: %w", err)
	}
	return nil
}

// objectsIn yields what generated structs have, by name, so that nothing can be forgotten here.
func objectsIn(sets ...any) iter.Seq2[string, object] {
	return func(yield func(string, object) bool) {
		for _, set := range sets {
			for field, value := range reflect.ValueOf(set).Fields() {
				if !yield(field.Tag.Get("ebpf"), value.Interface().(object)) {
					return
				}
			}
		}
	}
}

// object is an *ebpf.Map or an *ebpf.Program.
type object interface{ FD() int }

// ReceiveLoaded returns what [SendLoaded] sends, or the error that it was called with. The error is io.EOF if the other process has ended.
func ReceiveLoaded(from *net.UnixConn) (*Loaded, error) {
	text, rights := make([]byte, maxLoadedMessage), make([]byte, unix.CmsgSpace(4*maxDescriptors))
	n, rightsLen, flags, _, err := from.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	descriptors, err := descriptorsIn(rights[:rightsLen])
	defer func() {
		for _, fd := range descriptors {
			_ = unix.Close(fd)
		}
	}()
	switch {
	case err != nil:
		return nil, err
	case n == 0 && len(descriptors) == 0:
		return nil, io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return nil, errors.New("the message about the programs is too long")
	}
	var m loadedMessage
	if err := json.Unmarshal(text[:n], &m); err != nil {
		return nil, fmt.Errorf("reading the message about the programs: %w", err)
	}
	if err := m.Error.error(); err != nil {
		return nil, err
	}
	if len(descriptors) != len(m.Maps)+len(m.Programs) {
		return nil, fmt.Errorf("%d descriptors came with %d maps and %d programs", len(descriptors), len(m.Maps), len(m.Programs))
	}
	all := ebpf.Collection{Maps: make(map[string]*ebpf.Map), Programs: make(map[string]*ebpf.Program)}
	defer all.Close()
	take := func() (fd int) {
		fd, descriptors = descriptors[0], descriptors[1:]
		return fd
	}
	for _, name := range m.Maps {
		if all.Maps[name], err = ebpf.NewMapFromFD(take()); err != nil {
			return nil, fmt.Errorf("taking over map %s: %w", name, err)
		}
	}
	for _, name := range m.Programs {
		if all.Programs[name], err = ebpf.NewProgramFromFD(take()); err != nil {
			return nil, fmt.Errorf("taking over program %s: %w", name, err)
		}
	}
	l := &Loaded{inboundErr: m.Inbound.error()}
	if err := all.Assign(&l.objects); err != nil {
		return nil, fmt.Errorf("taking the programs over: %w", err)
	}
	if l.inboundErr == nil {
		if err := all.Assign(&l.inbound); err != nil {
			return nil, errors.Join(fmt.Errorf("taking the inbound programs over: %w", err), l.objects.Close())
		}
	}
	return l, nil
}

// maxDescriptors is how many descriptors a message may have (SCM_MAX_FD of include/net/scm.h).
const maxDescriptors = 253

// descriptorsIn returns the descriptors in a control message.
func descriptorsIn(control []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, m := range messages {
		descriptors, err := unix.ParseUnixRights(&m)
		if err != nil {
			return all, err
		}
		all = append(all, descriptors...)
	}
	return all, nil
}
