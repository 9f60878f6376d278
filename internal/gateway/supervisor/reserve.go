//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
)

const (
	// reservedPortsPath lists the ports that the kernel gives to no outgoing connection of this
	// network namespace by itself (Documentation/networking/ip-sysctl.rst).
	reservedPortsPath = "/proc/sys/net/ipv4/ip_local_reserved_ports"
	// reservedAttribute names the extended attribute of a pod's cgroup that lists those which
	// gateways have added: they go with the last gateway, although one may die meanwhile.
	reservedAttribute = "trusted.kube-gateway.reserved"
	// maxReservedText bounds the attribute, in bytes.
	maxReservedText = 256
)

// reservePorts keeps outgoing connections of the pod with this cgroup from getting ports of the
// gateway by chance, where ip_local_port_range is wide.
func reservePorts(podCgroup string, ports []uint16) error {
	reserved, err := reservedPorts()
	if err != nil {
		return err
	}
	added, err := addedPorts(podCgroup)
	if err != nil {
		return err
	}
	for _, port := range ports {
		if !slices.Contains(reserved, port) {
			reserved, added = append(reserved, port), append(added, port)
		}
	}
	// What could not be noted could not be undone.
	if err := unix.Setxattr(podCgroup, reservedAttribute, []byte(portList(added)), 0); err != nil {
		return fmt.Errorf("noting which ports are reserved: %w", err)
	}
	return setReservedPorts(reserved)
}

// releasePorts undoes what gateways reserved in the pod with this cgroup, unless another gateway
// listens there.
func releasePorts(podCgroup string) error {
	if listens, err := gatewayListens("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"); listens || err != nil {
		return err
	}
	added, err := addedPorts(podCgroup)
	if err != nil || len(added) == 0 {
		return err
	}
	reserved, err := reservedPorts()
	if err != nil {
		return err
	}
	reserved = slices.DeleteFunc(reserved, func(port uint16) bool { return slices.Contains(added, port) })
	if err := setReservedPorts(reserved); err != nil {
		return err
	}
	if err := unix.Removexattr(podCgroup, reservedAttribute); err != nil {
		return fmt.Errorf("forgetting which ports were reserved: %w", err)
	}
	return nil
}

// addedPorts returns the ports that gateways have reserved in the pod with this cgroup.
func addedPorts(podCgroup string) ([]uint16, error) {
	var text [maxReservedText]byte
	n, err := unix.Getxattr(podCgroup, reservedAttribute, text[:])
	if errors.Is(err, unix.ENODATA) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading which ports are reserved: %w", err)
	}
	return parsePorts(string(text[:n]))
}

// reservedPorts returns the ports that are reserved in the network namespace of the calling thread.
func reservedPorts() ([]uint16, error) {
	text, err := os.ReadFile(reservedPortsPath)
	if err != nil {
		return nil, fmt.Errorf("reading the reserved ports: %w", err)
	}
	return parsePorts(string(text))
}

func setReservedPorts(ports []uint16) error {
	// A line end alone empties the list.
	if err := os.WriteFile(reservedPortsPath, []byte(portList(ports)+"\n"), 0); err != nil {
		return fmt.Errorf("reserving ports: %w", err)
	}
	return nil
}

// parsePorts parses a list like "8080,9148-9150".
func parsePorts(text string) (ports []uint16, err error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, errFrom := strconv.ParseUint(first, 10, 16)
		to, errTo := strconv.ParseUint(last, 10, 16)
		if err := errors.Join(errFrom, errTo); err != nil {
			return nil, fmt.Errorf("parsing the port list %q: %w", text, err)
		}
		for port := from; port <= to; port++ {
			ports = append(ports, uint16(port))
		}
	}
	return ports, nil
}

// portList is the reverse of parsePorts.
func portList(ports []uint16) string {
	ports = slices.Compact(slices.Sorted(slices.Values(ports)))
	var parts []string
	for i := 0; i < len(ports); {
		last := i
		for last+1 < len(ports) && ports[last+1] == ports[last]+1 {
			last++
		}
		part := strconv.Itoa(int(ports[i]))
		if last > i {
			part += "-" + strconv.Itoa(int(ports[last]))
		}
		parts, i = append(parts, part), last+1
	}
	return strings.Join(parts, ",")
}

// reserve reserves ports of the gateway until release. Without it the gateway works as well.
func (s *supervisor) reserve(ports ...uint16) {
	if pod, _, err := bpf.PodCgroup(s.settings.config.Pod.UID); err != nil {
		return // load says so
	} else if err := reservePorts(pod.Path, ports); err != nil {
		s.Log.Warn("ports of the gateway are not reserved", "ports", portList(ports), "error", err)
	}
}

// release undoes reserve.
func (s *supervisor) release() {
	if pod, _, err := bpf.PodCgroup(s.settings.config.Pod.UID); err != nil {
		return
	} else if err := releasePorts(pod.Path); err != nil {
		s.Log.Warn("ports stay reserved", "error", err)
	}
}
