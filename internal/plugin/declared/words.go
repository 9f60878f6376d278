package declared

import (
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
)

// Modes returns the words for modes.
func Modes() []flags.Word[api.Mode] {
	return []flags.Word[api.Mode]{
		{Value: api.Strict, Meaning: "refuse them"},
		{Value: api.Permissive, Meaning: "let them through in plaintext"},
	}
}

// Wires returns the words for wires.
func Wires() []flags.Word[api.Wire] {
	return []flags.Word[api.Wire]{
		{Value: api.WireAuto, Meaning: "port for pods, inband for Services and node ports"},
		{Value: api.WirePort, Meaning: "on a port of the peer's own, which Services and node ports do not lead to"},
		{Value: api.WireInband, Meaning: "on the very port that is dialled"},
	}
}

// Logs returns the words for what is logged.
func Logs() []flags.Word[api.Log] {
	return []flags.Word[api.Log]{
		{Value: api.LogConnections, Meaning: "all of them"},
		{Value: api.LogRefused, Meaning: "those that are refused"},
		{Value: api.LogNone, Meaning: "none; errors and changes of the gateway are logged all the same"},
	}
}
