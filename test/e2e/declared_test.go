//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TestDeclaredSettings annotates a namespace and a pod, and sees the gateway that runs follow, the label, and the events.
func TestDeclaredSettings(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a := startPods(t, ns, podSpec("a", node1))[0]
	kubectl(t, "annotate", "namespace", ns, annotation+"=true", annotation+"/mode=strict")
	startWatch(t, "-n", ns)
	becomes := func(mode api.Mode, from string) {
		t.Helper()
		eventually(t, "mode "+string(mode)+" of "+from, func() error {
			var list struct {
				Items []struct {
					Mode     api.Mode `json:"mode"`
					Settings []struct{ Name, Value, From string }
				}
			}
			out := tryGateway(t, "-n", ns, "status", "pod/a", "-o", "json")
			if err := json.Unmarshal([]byte(out.stdout), &list); err != nil || len(list.Items) != 1 || list.Items[0].Mode != mode {
				return fmt.Errorf("%v, exit %d: %s%s", err, out.code, out.stdout, out.stderr)
			}
			for _, s := range list.Items[0].Settings {
				if s.Name == "mode" && s.From == from && s.Value == string(mode) {
					return nil
				}
			}
			return fmt.Errorf("the settings are %+v", list.Items[0].Settings)
		})
		eventually(t, "the label says "+string(mode), func() error {
			if object := get[corev1.Pod](t, "-n", ns, "pod", "a"); object.Labels[api.LabelMode] != string(mode) {
				return fmt.Errorf("labels %v", object.Labels)
			}
			return nil
		})
	}
	told := func(reason, words string) {
		t.Helper()
		eventually(t, "an event says "+reason, func() error {
			said := kubectl(t, "-n", ns, "describe", "pod", "a")
			if !strings.Contains(said, reason) || !strings.Contains(said, words) {
				return fmt.Errorf("%s", said)
			}
			return nil
		})
	}
	becomes(api.Strict, "namespace/"+ns)
	told("GatewayEnabled", "kube-gateway")
	if s := a.status(); s.OnFailure != api.FailClosed {
		t.Errorf("a strict gateway fails %s", s.OnFailure)
	}
	kubectl(t, "-n", ns, "annotate", "pod/a", annotation+"/mode=permissive", annotation+"/log=refused")
	becomes(api.Permissive, "pod")
	told("GatewayChanged", "mode=permissive of pod")
	kubectl(t, "-n", ns, "annotate", "--overwrite", "pod/a", annotation+"/mode=stric")
	told("GatewayRefused", `"stric" is unknown`)
	if s := a.status(); s.Mode != api.Permissive || s.Log.Level != api.LogRefused {
		t.Errorf("behind a typo the gateway has mode %s and logs %s", s.Mode, s.Log.Level)
	}
	kubectl(t, "-n", ns, "annotate", "pod/a", annotation+"/mode-")
	becomes(api.Strict, "namespace/"+ns)
}
