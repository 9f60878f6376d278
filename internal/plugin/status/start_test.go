package status

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TestStartThatIsHeldUp: a gateway that waits for a port is a problem, in the words of the gateway
// and with the names of the pod.
func TestStartThatIsHeldUp(t *testing.T) {
	id := strings.Repeat("a", 64)
	web := pod("web", "strict", "closed", running())
	web.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "nginx", ContainerID: "containerd://" + id}}
	held := answer("web", api.Starting, 0)
	held.Reason = "port 18443 is held by a listener at [::]:18443 in container " + id
	list := collectOf(t, asker{"web": says(held, nil)}, web)
	want := Problem{Severity: Critical, Text: "the gateway cannot start yet: port 18443 is held by a listener at [::]:18443 in container nginx",
		Hint: "it starts by itself once nothing is in its way"}
	if problems := list.Items[0].Problems; len(problems) == 0 || problems[0] != want {
		t.Errorf("%+v, want %+v first", problems, want)
	}
}
