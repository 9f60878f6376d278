package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// TestEnableTakesWhatIsDeclared where no flag is given, also for a gateway that takes another one's place.
func TestEnableTakesWhatIsDeclared(t *testing.T) {
	pod := fakecluster.NewPod("p")
	client := fakecluster.New(t, pod, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace, Annotations: map[string]string{
		api.AnnotationPrefix + "mode": "strict", api.AnnotationPrefix + "log": "refused", api.AnnotationPrefix + "wire": "tcp"}}})
	for flags, want := range map[string]struct {
		mode     api.Mode
		log      api.Log
		warnings int
	}{
		"":                             {api.Strict, api.LogRefused, 1},
		"--mode=permissive":            {api.Permissive, api.LogRefused, 2},
		"--mode=strict --log=none":     {api.Strict, api.LogNone, 2},
		"--replace --on-failure=open":  {api.Strict, api.LogRefused, 1},
		"--replace --mode=permissive":  {api.Permissive, api.LogRefused, 2},
		"--replace --log=connections ": {api.Strict, api.LogConnections, 2},
	} {
		var o enableOptions
		cmd := newEnableCommand(&app{}, &o)
		if err := cmd.ParseFlags(strings.Fields(flags)); err != nil {
			t.Fatal(err)
		}
		o.given = cmd.Flags().Changed
		injector := &inject.Injector{Options: o.complete()}
		if o.replace {
			injector.Options.Succession.Change = o.change(o.given, injector.Options)
		}
		reader := declared.NewReader(t.Context(), client)
		own, warnings := o.declared(injector, reader, pod)
		got := []any{own.Options.Mode, own.Options.Log, len(warnings)}
		expect.Equal(t, flags, []any{want.mode, want.log, want.warnings}, got)
		if !slices.ContainsFunc(warnings, func(text string) bool { return strings.Contains(text, `"tcp" is unknown`) }) {
			t.Errorf("%s: warnings %q", flags, warnings)
		}
		strict, unread, err := o.strict(reader, []corev1.Pod{*pod})
		expect.Equal(t, flags+", strict", []any{!o.given("mode"), 0, error(nil)}, []any{strict, len(unread), err})
		if change := own.Options.Succession.Change; change != nil {
			c := api.Config{Mode: api.Permissive}
			change(&c)
			expect.Equal(t, flags+", in the place of another one", []any{want.mode, want.log}, []any{c.Mode, c.Log})
		}
		if injector.Options.Mode != o.options.Mode {
			t.Errorf("%s: what is declared of one pod is changed for all", flags)
		}
	}
}

// TestByHandIsOverridden: whoever changes by hand what is declared hears that watch brings it back.
func TestByHandIsOverridden(t *testing.T) {
	for args, want := range map[string][]string{
		"mode web permissive": {"mode permissive is given, and kube-gateway.io/mode of pod says strict, which 'watch' brings back"},
		"mode web strict":     nil,
		"log web none":        {"log none is given, and kube-gateway.io/log of namespace/demo says refused, which 'watch' brings back"},
		"log web refused":     nil,
		"allow web --everyone": {
			"deny nobody is given, and kube-gateway.io/deny of pod says ns/dev/sa/*, which 'watch' brings back",
			"audit false is given, and kube-gateway.io/audit of pod says true, which 'watch' brings back"},
		"refresh web": nil,
		"refresh web --allow-plaintext-from=10.0.0.0/8": {
			"allow-plaintext-from 10.0.0.0/8 is given, and kube-gateway.io/allow-plaintext-from of pod says none, which 'watch' brings back"},
		"mode bystander strict": nil,
	} {
		for _, may := range []bool{true, false} {
			fleet := new(fakegateway.Fleet)
			fleet.Set("web", api.Status{Capture: api.Capture{Coverage: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}}}})
			s := changeServer(&gatewayContainers{})
			s.fleet = fleet
			nodeList(s)
			for i := range s.pods {
				s.pods[i].Annotations = map[string]string{api.AnnotationPrefix + "mode": "strict", api.AnnotationPrefix + "deny": "ns/dev/sa/*",
					api.AnnotationPrefix + "audit": "true", api.AnnotationPrefix + "allow-plaintext-from": "none", api.AnnotationPrefix + "wire": "typo"}
			}
			expected := want
			s.objects["/api/v1/namespaces/demo"] = `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"demo","annotations":{"kube-gateway.io/log":"refused"}}}`
			if !may {
				s.objects["/api/v1/namespaces/demo"] = forbidden
				if expected = slices.DeleteFunc(slices.Clone(want), func(text string) bool { return strings.Contains(text, "namespace") }); len(expected) == 0 {
					expected = nil
				}
			}
			_, _, stderr := s.start(t)(strings.Fields(args)...)
			var got []string
			for line := range strings.Lines(stderr) {
				if _, text, ok := strings.Cut(strings.TrimSpace(line), "warning: "); ok && (strings.Contains(text, "watch") || strings.Contains(text, "annotations")) {
					got = append(got, text)
				}
			}
			expect.Equal(t, fmt.Sprintf("%s, may %v", args, may), expected, got)
		}
	}
}
