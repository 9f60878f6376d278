//go:build linux

package supervisor

import (
	"os"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TerminationMessagePath is the default of a container's
// terminationMessagePath: the kubelet copies what is in it to the pod's status.
const TerminationMessagePath = "/dev/termination-log"

// maxTerminationMessage is what the kubelet keeps of it, in bytes.
const maxTerminationMessage = 4096

// WriteTerminationMessage writes the reason of the gateway's end to path. The plugin reads
// it in the pod's status. The kubelet provides the file; it is never created here.
func WriteTerminationMessage(path string, err error) {
	text := err.Error()
	if hint := api.Hint(err); hint != "" {
		text += "\nhint: " + hint
	}
	text = text[:min(len(text), maxTerminationMessage)]
	f, openErr := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if openErr != nil {
		return
	}
	defer f.Close()
	f.WriteString(text)
}
