package api

import (
	"fmt"
	"net/netip"
	"slices"
)

// MetricsPort is the port that documentation and examples suggest for a gateway's metrics. By
// default a gateway serves them on no port.
const MetricsPort = 18445

// ExporterID is the user and group ID of the process that serves metrics. It differs from
// WorkerID, so that neither process can send the other a signal.
const ExporterID = 65533

// ParseMetricsAddr reads where metrics are served: "[IP]:PORT", or ":PORT" for all addresses of the
// pod, for which the address of the result is not valid. The port must not be one of the gateway's
// own.
func ParseMetricsAddr(text string) (netip.AddrPort, error) {
	full, all := text, len(text) > 0 && text[0] == ':'
	if all {
		full = "127.0.0.1" + text
	}
	addr, err := netip.ParseAddrPort(full)
	ip := addr.Addr()
	switch {
	case err != nil, ip.Zone() != "", ip.Is4In6():
		return netip.AddrPort{}, WithHint(fmt.Errorf("%q is not an address with a port", text),
			fmt.Sprintf("write it like :%d, or 127.0.0.1:%[1]d for the pod itself alone", MetricsPort))
	case ip.IsUnspecified():
		return netip.AddrPort{}, WithHint(fmt.Errorf("%q is not an address of a pod", text),
			fmt.Sprintf("for all addresses of the pod leave it out: :%d", addr.Port()))
	case addr.Port() == 0, slices.Contains([]uint16{CapturePort, PeerPort, InbandPort}, addr.Port()):
		return netip.AddrPort{}, WithHint(fmt.Errorf("metrics cannot be served on port %d", addr.Port()),
			fmt.Sprintf("ports %d, %d and %d are the gateway's own; %d is free of those", CapturePort, PeerPort, InbandPort, MetricsPort))
	}
	if all {
		return netip.AddrPortFrom(netip.Addr{}, addr.Port()), nil
	}
	return addr, nil
}

// checkMetricsAddr returns why metrics cannot be served at c.MetricsAddr.
func (c *Config) checkMetricsAddr() error {
	if c.MetricsAddr == "" {
		return nil
	}
	addr, err := ParseMetricsAddr(c.MetricsAddr)
	if err != nil {
		return err
	}
	if ip := addr.Addr(); ip.IsValid() && !ip.IsLoopback() && !slices.Contains(c.PodIPs, ip) {
		return WithHint(fmt.Errorf("metrics cannot be served on %v, which is not an address of the pod", ip),
			fmt.Sprintf("for all addresses of each pod leave it out: :%d", addr.Port()))
	}
	return nil
}
