package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/check"
)

func TestCheckFlags(t *testing.T) {
	run := (&apiServer{}).start(t)
	fails(t, run, 1, map[string]string{
		"check -o xml":                        `unable to match a printer suitable for the output format "xml", allowed formats are: `,
		"check --wire=radio":                  "hint: use auto, port or inband",
		"check --image-pull-policy=Sometimes": "hint: use Always, IfNotPresent or Never",
		"check --image=":                      "--image: the name is empty",
		"check --wait=-1s":                    "is negative",
		"check --timeout=0":                   "is not positive",
		"check --image-timeout=0":             "is not positive",
		"check --capture-cidr=all":            "hint: write it like 10.244.0.0/16",
		"check --service-cidr=all":            "hint: write it like 10.244.0.0/16",
	})
}

// A kubeconfig that cannot be read is one finding, not the end of the report.
func TestCheckWithoutKubeconfig(t *testing.T) {
	code, stdout, _ := execute(t, "check", "-o", "json", "--kubeconfig=/nowhere")
	var report check.Report
	must.Do(t, json.Unmarshal([]byte(stdout), &report))
	for _, item := range report.Checks {
		if (item.ID == "client-kubeconfig") != (item.Result == check.Error) {
			t.Errorf("%+v", item)
		}
	}
	if code != 1 || report.Result != check.Error {
		t.Errorf("exit code %d, %s", code, report.Result)
	}
}

// Without a cluster the report says so once, and nothing else is an error.
func TestCheckWithoutCluster(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	code, stdout, stderr := execute(t, "check", "--kubeconfig="+writeKubeconfig(t, dead.URL))
	// What differs from machine to machine.
	stdout = strings.ReplaceAll(stdout, strings.TrimPrefix(dead.URL, "http://"), "SERVER")
	stdout = regexp.MustCompile(`(?m)^√ the plugin has a version: .*$`).ReplaceAllString(stdout, "√ the plugin has a version: VERSION")
	stdout = regexp.MustCompile(`(?m)^. kubectl is found.*\n(    .*\n)*`).ReplaceAllString(stdout, "")
	stdout = regexp.MustCompile(`[0-9]+ warnings?, [0-9]+ ok`).ReplaceAllString(stdout, "N warnings, N ok")
	if code != 1 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	golden.Check(t, "check-no-cluster.txt", stdout)
}

func TestCheckForPrograms(t *testing.T) {
	code, stdout, _ := (&apiServer{}).start(t)("check", "-o", "json", "--image-test=false")
	var report check.Report
	must.Do(t, json.Unmarshal([]byte(stdout), &report))
	// This server refuses most questions.
	if code != 1 || report.Kind != check.Kind || report.APIVersion != check.APIVersion || report.Result != check.Error || len(report.Checks) < 20 {
		t.Errorf("exit code %d, %+v", code, report)
	}
}

func TestServerTime(t *testing.T) {
	then := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", then.Format(http.TimeFormat))
		// What the answer is otherwise does not matter.
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	got, err := serverTime(t.Context(), &rest.Config{Host: server.URL})
	if err != nil || !got.Equal(then) {
		t.Errorf("%v, %v", got, err)
	}
}
