package main

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestRevoke(t *testing.T) {
	c := newRotatingCluster(t, "web", "db", "ended")
	c.pods[1].DeletionTimestamp = new(metav1.Now()) // it serves on
	c.pods[2].Status.Phase = corev1.PodSucceeded
	serial := c.certs["web"].Chain[0].SerialNumber.Text(16)
	if stdout, _ := c.mustRun("revoke", "pod/web", "--dry-run"); !strings.HasPrefix(stdout, "certificate "+serial+" revoked on ") || !strings.HasSuffix(stdout, " (dry run)\n") {
		t.Errorf("dry run: %q", stdout)
	}
	if stdout, _ := c.mustRun("revoke", "--list"); stdout != "" || len(c.told) != 0 {
		t.Errorf("after a dry run: %q, %v", stdout, c.told)
	}
	stdout, stderr := c.mustRun("revoke", "pod/web", "ns/shop/sa/web", "--parallel=1")
	if stdout != "pod/db refuses what is revoked\npod/web refuses what is revoked\n" || !strings.Contains(stderr, "certificate "+serial+" revoked\ncluster.local/ns/shop/sa/web revoked\n") {
		t.Errorf("%q, %q", stdout, stderr)
	}
	first := c.told["web"][c.authority().Fingerprint()]
	if first == 0 || c.told["db"][c.authority().Fingerprint()] != first {
		t.Errorf("told %v", c.told)
	}
	expect.Equal(t, "events", []string{"db GatewayChanged: refuses what is revo", "web GatewayChanged: refuses what is revo"}, c.events(t))
	if stdout, _ := c.mustRun("revoke", "--list", "-o", "name"); stdout != "certificate "+serial+"\ncluster.local/ns/shop/sa/web\n" {
		t.Errorf("the list: %q", stdout)
	}
	// The same once more is nothing new, and a new gateway gets it from a renewal as well.
	c.mustRun("revoke", serial)
	if now := c.told["web"][c.authority().Fingerprint()]; now != first {
		t.Errorf("number %d after %d", now, first)
	}

	// One that does not answer, and one that does not know, do not stop the others.
	c.dead, c.old, c.pods[1].DeletionTimestamp = "web", "db", nil
	code, stdout, stderr := c.run("revoke", "AB:CD", "-o", "json")
	var got revocationsOutput
	must.Do(t, json.Unmarshal([]byte(stdout), &got))
	if code != 1 || len(got.Revoked) != 1 || got.Revoked[0].Serial != "abcd" || len(got.Items) != 2 || !strings.Contains(stderr, "kubectl gateway watch") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	for _, item := range got.Items {
		if item.Error == "" || item.Pod == "db" && !strings.Contains(item.Hint, "upgrade") {
			t.Errorf("%+v", item)
		}
	}
	c.dead, c.old = "", ""
	c.mustRun("revoke", "abcd")
	if now := c.told["web"][c.authority().Fingerprint()]; now <= first {
		t.Errorf("number %d after %d", now, first)
	}
}

func TestRevokeRefuses(t *testing.T) {
	c := newRotatingCluster(t, "web")
	for args, says := range map[string]string{
		"revoke": "nothing is named", "revoke --list abcd": "use it alone", "revoke web": "no serial number", "revoke 0": "no serial number",
		"revoke ns/shop": "is not spiffe", "revoke spiffe://other/ns/a/sa/b": "not of trust domain", "revoke pod/nobody": "not found",
		"revoke abcd --cert-ttl=x": "--cert-ttl", "revoke abcd -o wide": "unable to match a printer",
	} {
		if code, _, stderr := c.run(strings.Fields(args)...); code != 1 || !strings.Contains(stderr, says) {
			t.Errorf("%s: exit code %d, %q", args, code, stderr)
		}
	}
	if len(c.told) != 0 {
		t.Errorf("told %v", c.told)
	}
}
