//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
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
		// An empty set would stand for every port.
		if len(reserved) == 0 || !reserved.Contains(port) {
			one := api.PortRange{First: port, Last: port}
			reserved, added = api.NewPorts(append(reserved, one)...), api.NewPorts(append(added, one)...)
		}
	}
	// What could not be noted could not be undone.
	if err := unix.Setxattr(podCgroup, reservedAttribute, []byte(added.String()), 0); err != nil {
		return fmt.Errorf("noting which ports are reserved: %w", err)
	}
	return setReservedPorts(reserved)
}

// releasePod undoes what gateways have changed for the whole network namespace of the pod with this cgroup, unless
// another gateway listens there.
func releasePod(podCgroup string) error {
	if listens, err := gatewayListens("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"); listens || err != nil {
		return err
	}
	return errors.Join(releasePorts(podCgroup), bpf.UnrouteSources())
}

// releasePorts undoes reservePorts.
func releasePorts(podCgroup string) error {
	added, err := addedPorts(podCgroup)
	if err != nil || len(added) == 0 {
		return err
	}
	reserved, err := reservedPorts()
	if err != nil {
		return err
	}
	if err := setReservedPorts(without(reserved, added)); err != nil {
		return err
	}
	if err := unix.Removexattr(podCgroup, reservedAttribute); err != nil {
		return fmt.Errorf("forgetting which ports were reserved: %w", err)
	}
	return nil
}

// addedPorts returns the ports that gateways have reserved in the pod with this cgroup.
func addedPorts(podCgroup string) (api.Ports, error) {
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
func reservedPorts() (api.Ports, error) {
	text, err := os.ReadFile(reservedPortsPath)
	if err != nil {
		return nil, fmt.Errorf("reading the reserved ports: %w", err)
	}
	return parsePorts(string(text))
}

func setReservedPorts(ports api.Ports) error {
	// A line end alone empties the list.
	if err := os.WriteFile(reservedPortsPath, []byte(ports.String()+"\n"), 0); err != nil {
		return fmt.Errorf("reserving ports: %w", err)
	}
	return nil
}

// parsePorts parses a list of the kernel's, which may be empty. Port 0, which is none, may be in it.
func parsePorts(text string) (api.Ports, error) {
	text = strings.TrimSpace(text)
	if rest, ok := strings.CutPrefix(text, "0-"); ok {
		text = "1-" + rest
	}
	if text == "" {
		return nil, nil
	}
	return api.ParsePorts(text)
}

// without returns the ports that are not among others, which has some.
func without(ports, others api.Ports) api.Ports {
	var left []api.PortRange
	for _, r := range ports {
		for port := int(r.First); port <= int(r.Last); port++ {
			if !others.Contains(uint16(port)) {
				left = append(left, api.PortRange{First: uint16(port), Last: uint16(port)})
			}
		}
	}
	return api.NewPorts(left...)
}

// reserve reserves ports of the gateway until release. Without it the gateway works as well.
func (s *supervisor) reserve(ports ...uint16) {
	if pod, _, err := bpf.PodCgroup(s.settings.config.Pod.UID); err != nil {
		return // load says so
	} else if err := reservePorts(pod.Path, ports); err != nil {
		s.Log.Warn("ports of the gateway are not reserved", "ports", ports, "error", err)
	}
}

// release undoes reserve, routeSources and what followNetwork adds.
func (s *supervisor) release() {
	if pod, _, err := bpf.PodCgroup(s.settings.config.Pod.UID); err != nil {
		return
	} else if err := releasePod(pod.Path); err != nil {
		s.Log.Warn("ports stay reserved, or routes stay", "error", err)
	}
}
