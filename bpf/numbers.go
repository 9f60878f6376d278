//go:build ignore

// The numbers of types.h that Go needs: generate.sh makes numbers_linux.go of this.

package bpf

// #include "types.h"
import "C"

// Values of the map kgw_ranges (enum action), and the length of a key with a port.
const (
	endpointBits = C.ENDPOINT_BITS
	maxPorts     = C.MAX_PORTS
	maxGateways  = C.MAX_GATEWAYS
	spreadPorts  = C.SPREAD_PORTS

	actionOutside uint32 = C.ACTION_OUTSIDE
	actionLocal   uint32 = C.ACTION_LOCAL
	actionExclude uint32 = C.ACTION_EXCLUDE
	actionPod     uint32 = C.ACTION_POD
	actionService uint32 = C.ACTION_SERVICE
	actionNode    uint32 = C.ACTION_NODE
)

// The socket options (enum sockopt).
const (
	sockoptLevel               = C.SOCKOPT_LEVEL
	sockoptOriginalDestination = C.SOCKOPT_ORIGINAL_DESTINATION
	sockoptPresentAs           = C.SOCKOPT_PRESENT_AS
	sockoptInband              = C.SOCKOPT_INBAND
	sockoptNegotiated          = C.SOCKOPT_NEGOTIATED
	sockoptListener            = C.SOCKOPT_LISTENER
	sockoptHandedOver          = C.SOCKOPT_HANDED_OVER
	sockoptTuning              = C.SOCKOPT_TUNING
	sockoptWaiting             = C.SOCKOPT_WAITING
	sockoptAdmit               = C.SOCKOPT_ADMIT
	sockoptWorks               = C.SOCKOPT_WORKS
	sockoptFails               = C.SOCKOPT_FAILS
	sockoptFromOutside         = C.SOCKOPT_FROM_OUTSIDE
	sockoptAnswer              = C.SOCKOPT_ANSWER
	sockoptUrgent              = C.SOCKOPT_URGENT
)

// The options that reach the wire (enum tunable).
const (
	tuneKeepAlive    = C.TUNE_KEEPALIVE
	tuneKeepIdle     = C.TUNE_KEEPIDLE
	tuneKeepInterval = C.TUNE_KEEPINTVL
	tuneKeepCount    = C.TUNE_KEEPCNT
	tuneUserTimeout  = C.TUNE_USER_TIMEOUT
	tuneTOS          = C.TUNE_TOS
	tuneTrafficClass = C.TUNE_TCLASS
	tunePriority     = C.TUNE_PRIORITY
	tuneCongestion   = C.TUNE_CONGESTION
)

// The names of tunings (enum tuning_name).
const (
	tuningNameMask         = C.NAME_MASK
	tuningNamePrefix       = C.NAME_PREFIX
	tuningNameSet          = C.NAME_SET
	tuningNameKeepAlive    = C.NAME_KEEPALIVE
	tuningNameKeepCount    = C.NAME_KEEPCNT
	tuningNameKeepInterval = C.NAME_KEEPINTVL
)

// The roles of connections in band, and those of listeners (enum role).
const (
	roleInbandShown     = C.ROLE_INBAND_SHOWN
	roleInbandGivenUp   = C.ROLE_INBAND_GIVEN_UP
	roleCaptureListener = C.ROLE_CAPTURE_LISTENER
	roleInbandListener  = C.ROLE_INBAND_LISTENER
)
