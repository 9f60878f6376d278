package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func TestRevoke(t *testing.T) {
	c := newRotatingCluster(t, "web", "db", "ended")
	c.pods[1].DeletionTimestamp = new(metav1.Now()) // it serves on
	c.pods[2].Status.Phase = corev1.PodSucceeded
	serial, web := c.certs["web"].Chain[0].SerialNumber.Text(16), "cluster.local/ns/demo/sa/default in pod uid-web"
	if stdout, _ := c.mustRun("revoke", "pod/web", "--dry-run"); !strings.HasPrefix(stdout, web+" revoked on ") || !strings.HasSuffix(stdout, " (dry run)\n") {
		t.Errorf("dry run: %q", stdout)
	}
	if stdout, _ := c.mustRun("revoke", "--list"); stdout != "" || len(c.told) != 0 {
		t.Errorf("after a dry run: %q, %v", stdout, c.told)
	}
	stdout, stderr := c.mustRun("revoke", "pod/web", "ns/shop/sa/web", serial, "--parallel=1")
	if stdout != "pod/db refuses what is revoked\npod/web refuses what is revoked\n" || !strings.Contains(stderr, web+" revoked\ncluster.local/ns/shop/sa/web revoked\n") {
		t.Errorf("%q, %q", stdout, stderr)
	}
	first := c.told["web"][c.authority().Fingerprint()]
	if first == 0 || c.told["db"][c.authority().Fingerprint()] != first {
		t.Errorf("told %v", c.told)
	}
	expect.Equal(t, "events", []string{"db GatewayChanged: refuses what is revo", "web GatewayChanged: refuses what is revo"}, c.events(t))
	if stdout, _ := c.mustRun("revoke", "--list", "-o", "name"); stdout != web+"\ncluster.local/ns/shop/sa/web\ncertificate "+serial+"\n" {
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

// TestRevokePodInForeignHands: its gateway does not answer, or with a lie about its certificate, and has one of before.
func TestRevokePodInForeignHands(t *testing.T) {
	for name, dead := range map[string]string{"lies": "", "silent": "web"} {
		t.Run(name, func(t *testing.T) {
			c := newRotatingCluster(t, "web", "db")
			before := c.certs["web"].Chain[0]
			c.mustRun("rotate", "web")
			now := c.certs["web"].Chain[0]
			// That of another pod of the same account.
			c.certs["web"], c.dead = c.certs["db"], dead
			if code, _, stderr := c.run("revoke", "pod/web"); code != 0 != (dead != "") {
				t.Errorf("exit code %d: %s", code, stderr)
			}
			var published corev1.ConfigMap
			must.Do(t, json.Unmarshal([]byte(c.objects["/api/v1/namespaces/kube-system/configmaps/"+authority.BundleName]), &published))
			revoked, _ := c.authority().ReadRevocations([]byte(published.Data[authority.RevokedKey]))
			for held, err := range map[string]error{"the one of now": revoked.Check(now), "the one of before": revoked.Check(before)} {
				if !errors.Is(err, ca.ErrRevoked) {
					t.Errorf("%s: %v", held, err)
				}
			}
			must.Do(t, revoked.Check(c.certs["db"].Chain[0]))
			// The next command may follow at once.
			c.dead = ""
			c.mustRun("rotate", "web")
			must.Do(t, revoked.Check(c.certs["web"].Chain[0]))
		})
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
