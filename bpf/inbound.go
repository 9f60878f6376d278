//go:build linux

package bpf

import "errors"

// AttachInbound attaches what sends inbound connections to the gateway's in-band
// listener: those that show that their other end has a gateway, and in strict mode
// those in plaintext that [Options.PlaintextFrom] does not allow, which the gateway is
// to reset. All others reach the application untouched.
//
// It must be called in the pod's network namespace, after [Programs.AttachSockets].
// The listeners on 127.0.0.1 and [::1], port [api.InbandPort], must have been opened
// by plain TCP sockets after AttachSockets, and should be open before this call. It then
// removes what a gateway that is gone left behind, without a gap.
//
// It uses tcx where the kernel has it, and clsact otherwise and with KeepOnExit. If
// the kernel lacks something, the error names it: nothing inbound is attached then, and
// everything else goes on as before.
func (p *Programs) AttachInbound() error {
	return errors.New("attaching the inbound programs: not supported by this build")
}
