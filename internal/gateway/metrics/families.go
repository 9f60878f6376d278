package metrics

import (
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// namespace is the first word of every metric's name.
const namespace = "kube_gateway"

// family describes how one metric is read from a status.
type family struct {
	short  string // the name without the namespace
	help   string
	kind   kind
	labels []string
	read   func(s *api.Status, emit func(value float64, labels ...string))
}

// kind is the type of a metric in Prometheus' words.
type kind string

const (
	isCounter kind = "counter"
	isGauge   kind = "gauge"
)

func (f *family) name() string { return namespace + "_" + f.short }

// emitter receives a sample.
type emitter = func(value float64, labels ...string)

// counter returns a family of one counter without labels.
func counter(short, help string, value func(*api.Status) uint64) family {
	return family{short, help, isCounter, nil, func(s *api.Status, emit emitter) { emit(float64(value(s))) }}
}

// ofDirections returns a family with a sample for each direction.
func ofDirections(short, help string, kind kind, value func(*api.Direction) float64) family {
	return family{short, help, kind, []string{"direction"}, func(s *api.Status, emit emitter) {
		eachDirection(s, func(name string, d *api.Direction) { emit(value(d), name) })
	}}
}

func eachDirection(s *api.Status, do func(name string, d *api.Direction)) {
	do(api.Outbound, &s.Traffic.Outbound)
	do(api.Inbound, &s.Traffic.Inbound)
}

// ofTime returns a gauge that is left out while the time is unknown.
func ofTime(short, help string, value func(*api.Status) time.Time) family {
	return family{short, help, isGauge, nil, func(s *api.Status, emit emitter) {
		if t := value(s); !t.IsZero() {
			emit(float64(t.UnixMilli()) / 1000)
		}
	}}
}

// families returns all metrics.
func families() []family {
	return slices.Concat(aboutGateway(), aboutMemory(), aboutConnections(), aboutCapture())
}

func aboutGateway() []family {
	return []family{
		{"info", "What the gateway is and runs with; always 1.", isGauge,
			[]string{"version", "fips140", "mode", "on_failure", "wire", "identity"}, func(s *api.Status, emit emitter) {
				emit(1, s.Version, s.FIPS140, string(s.Mode), string(s.OnFailure), string(s.Wire), s.Identity)
			}},
		{"state", "Whether the gateway is in this state, 1 or 0.", isGauge,
			[]string{"state"}, func(s *api.Status, emit emitter) {
				for _, state := range []api.State{api.Starting, api.Ready, api.Degraded, api.Uncertified, api.Standby, api.Draining} {
					var is float64
					if s.State == state {
						is = 1
					}
					emit(is, string(state))
				}
			}},
		{"missing_features", "Features that could not be loaded; the gateway works without them.", isGauge,
			nil, func(s *api.Status, emit emitter) { emit(float64(len(s.Missing))) }},
		ofTime("start_time_seconds", "When the gateway was started, in seconds since 1970.",
			func(s *api.Status) time.Time { return s.StartedAt }),
		ofTime("worker_start_time_seconds", "When the worker that runs now was started, in seconds since 1970.",
			func(s *api.Status) time.Time { return s.Worker.StartedAt }),
		counter("worker_restarts_total", "How often the worker had to be started again.",
			func(s *api.Status) uint64 { return uint64(max(s.Worker.Restarts, 0)) }),
		counter("log_written_bytes_total", "Bytes of the gateway's log, with what the container runtime adds to a line.",
			func(s *api.Status) uint64 { return s.Log.Bytes }),
		counter("log_dropped_lines_total", "Lines of the log that were not written because of its limit, or because nobody took them.",
			func(s *api.Status) uint64 { return s.Log.DroppedLines }),
		ofTime("certificate_not_before_timestamp_seconds", "When the gateway's certificate begins to be valid, in seconds since 1970.",
			func(s *api.Status) time.Time { return s.Cert.NotBefore }),
		ofTime("certificate_not_after_timestamp_seconds", "When the gateway's certificate ends, in seconds since 1970.",
			func(s *api.Status) time.Time { return s.Cert.NotAfter }),
	}
}

func aboutMemory() []family {
	// A value is left out where it is not known, a limit where there is none.
	of := func(short, help string, limited bool, kind kind, value func(*api.Memory) float64) family {
		return family{short, help, kind, nil, func(s *api.Status, emit emitter) {
			if m := s.Memory; m != nil && (!limited || m.Limit > 0) {
				emit(value(m))
			}
		}}
	}
	return []family{
		of("memory_used_bytes", "Memory that the gateway's container uses, page cache included.", false, isGauge,
			func(m *api.Memory) float64 { return float64(m.Used) }),
		of("memory_killed_total", "Processes of the gateway that the kernel killed because the pod's memory was used up.", false, isCounter,
			func(m *api.Memory) float64 { return float64(m.Killed) }),
		of("memory_limit_bytes", "The limit of the memory of the pod or of the gateway's container, of which less is left.", true, isGauge,
			func(m *api.Memory) float64 { return float64(m.Limit) }),
		of("memory_left_bytes", "What is not used of that limit, what the kernel can reclaim included.", true, isGauge,
			func(m *api.Memory) float64 { return float64(m.Left) }),
		of("memory_room_connections", "For how many more connections there is memory, before new ones are refused.", true, isGauge,
			func(m *api.Memory) float64 { return float64(m.Room) }),
	}
}

func aboutConnections() []family {
	return []family{
		{"connections_total", "Connections by how they were carried.", isCounter,
			[]string{"direction", "result"}, func(s *api.Status, emit emitter) {
				eachDirection(s, func(name string, d *api.Direction) {
					emit(float64(d.Encrypted), name, "encrypted")
					emit(float64(d.Plaintext), name, "plaintext")
					emit(float64(d.Refused), name, "refused")
				})
			}},
		ofDirections("inband_connections_total", "Encrypted connections that travelled on the in-band wire; the others had the port wire.",
			isCounter, func(d *api.Direction) float64 { return float64(d.Inband) }),
		ofDirections("reused_connections_total", "Encrypted connections that took no handshake, because they travelled on a connection between gateways that was there.",
			isCounter, func(d *api.Direction) float64 { return float64(d.Reused) }),
		{"unencrypted_connections_total", "Connections that were refused or carried in plaintext, by the reason.",
			isCounter, []string{"direction", "reason"}, func(s *api.Status, emit emitter) {
				for _, d := range traffic.Directions() {
					for _, r := range traffic.Reasons(d) {
						emit(unencrypted(s, d.String(), r.Word()), d.String(), r.Word())
					}
				}
			}},
		counter("audited_connections_total", "Inbound connections that the identity rules would have refused if they did not only audit.",
			func(s *api.Status) uint64 { return s.Traffic.Inbound.Audited }),
		ofDirections("forbidden_connections_reset_total", "Connections that were open and were reset because new rules or strict mode forbade them.",
			isCounter, func(d *api.Direction) float64 { return float64(d.Reset) }),
		ofDirections("active_connections", "Connections that are open now.",
			isGauge, func(d *api.Direction) float64 { return float64(d.Active) }),
		ofDirections("sent_bytes_total", "Bytes that the application sent.",
			isCounter, func(d *api.Direction) float64 { return float64(d.Sent) }),
		ofDirections("received_bytes_total", "Bytes that the application received.",
			isCounter, func(d *api.Direction) float64 { return float64(d.Received) }),
		{"existing_connections", "Open plaintext connections of the application that no gateway carries.", isGauge,
			[]string{"direction"}, func(s *api.Status, emit emitter) {
				if e := s.Existing; e != nil {
					emit(float64(e.Outbound), api.Outbound)
					emit(float64(e.Inbound), api.Inbound)
				}
			}},
		{"existing_connections_reset_total", "Plaintext connections that the gateway has reset.", isCounter,
			nil, func(s *api.Status, emit emitter) {
				if e := s.Existing; e != nil {
					emit(float64(e.Reset))
				}
			}},
	}
}

func aboutCapture() []family {
	return []family{
		counter("captured_connections_total", "Outbound connections that were redirected to the gateway.",
			func(s *api.Status) uint64 { return s.Capture.Captured }),
		{"service_connections_total", "Outbound connections to Service addresses that the gateway does not carry.", isCounter,
			[]string{"result"}, func(s *api.Status, emit emitter) {
				emit(float64(s.Capture.ServicePassed), "passed")
				emit(float64(s.Capture.ServiceRefused), "refused")
			}},
		counter("excluded_connections_total", "Outbound connections that are not captured because their destination is excluded, or passes like the API server.",
			func(s *api.Status) uint64 { return s.Capture.Excluded }),
		{"outside_connections_total", "Outbound connections into private address space that no captured range names.", isCounter,
			[]string{"result"}, func(s *api.Status, emit emitter) {
				emit(float64(s.Capture.OutsideConnections-min(s.Capture.OutsideConnections, s.Capture.OutsideRefused)), "passed")
				emit(float64(s.Capture.OutsideRefused), "refused")
			}},
		counter("uncapturable_connections_total", "Outbound connections that should have been captured but could not be.",
			func(s *api.Status) uint64 { return s.Capture.Uncapturable }),
		counter("no_listener_connections_total", "Outbound connections that were refused because no worker listened.",
			func(s *api.Status) uint64 { return s.Capture.NoListener }),
		counter("nested_connections_total", "Outbound connections from network namespaces within the pod, which the gateway cannot capture.",
			func(s *api.Status) uint64 { return s.Capture.Nested }),
		counter("forwarded_connections_total", "Connections that the pod forwards for others, which the gateway cannot capture.",
			func(s *api.Status) uint64 { return s.Capture.Forwarded }),
		counter("steered_connections_total", "Inbound connections that were handed to the in-band listener.",
			func(s *api.Status) uint64 { return s.Capture.Steered }),
		{"guarded_connections_total", "Inbound connections without a gateway at the other end that strict mode let in because of their source, or reset.",
			isCounter, []string{"result"}, func(s *api.Status, emit emitter) {
				emit(float64(s.Capture.PlaintextAllowed), "passed")
				emit(float64(s.Capture.PlaintextRefused), "refused")
			}},
		counter("udp_total", "UDP sockets and messages to captured ranges, which no gateway encrypts.",
			func(s *api.Status) uint64 { return s.Capture.UDP }),
		counter("udp_refused_total", "Those of the UDP sockets and messages that were refused.",
			func(s *api.Status) uint64 { return s.Capture.UDPRefused }),
		counter("udp_answers_total", "UDP sockets and messages from port 53 to captured ranges, which pass as answers of a name server.",
			func(s *api.Status) uint64 { return s.Capture.UDPAnswers }),
	}
}

// unencrypted returns how many connections a status counts under a reason.
func unencrypted(s *api.Status, direction, reason string) float64 {
	for _, u := range s.Unencrypted {
		if u.Direction == direction && u.Reason == reason {
			return float64(u.Connections)
		}
	}
	return 0
}
