package check

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// idReachable is the check that explains why the cluster does not answer. All others
// that need the cluster are skipped then.
const idReachable = "cluster-reachable"

// maxSkew is a harmless difference of clocks: certificates are valid from that long
// before their creation.
const maxSkew = ca.Backdate

// checks are all checks, in the order of the report.
func (c *Checker) checks() []check {
	list := []check{
		{id: "client-version", category: Client, description: "the plugin has a version", offline: true, run: checkPlugin},
		{id: "client-kubeconfig", category: Client, description: "the kubeconfig can be read", offline: true, run: checkKubeconfig},
		{id: "client-kubectl", category: Client, description: "kubectl is found", offline: true, run: checkKubectl},
		{id: idReachable, category: Cluster, description: "the API server answers", run: checkReachable},
		{id: "cluster-version", category: Cluster, description: "the server is new enough", run: checkServerVersion},
		{id: "cluster-clock", category: Cluster, description: "the clocks of this machine and of the server agree", run: checkServerClock},
		{id: "cluster-pods", category: Cluster, description: "the pods are found", run: checkFound},
		{id: "permissions-enable", category: Permissions, description: "you may enable gateways", run: may(rights.Enable)},
		{id: "permissions-secret", category: Permissions, description: "you may bring certificates in Secrets (--delivery=secret)", run: maySecrets},
		{id: "permissions-status", category: Permissions, description: "you may ask gateways (status, mode, allow)", run: may(rights.Status)},
		{id: "permissions-tail", category: Permissions, description: "you may read the log of gateways (tail)", run: may(rights.Tail)},
		{id: "permissions-disable", category: Permissions, description: "you may disable gateways", run: may(rights.Disable)},
		{id: "permissions-rotate", category: Permissions, description: "you may renew certificates (rotate)", run: may(rights.Rotate)},
		{id: "permissions-signer", category: Permissions, description: "you may ask the signer of the cluster", run: maySigner},
		{id: "permissions-watch", category: Permissions, description: "you may watch for new pods", run: may(rights.Watch)},
		{id: "policy-pod-security", category: Policy, description: "Pod Security admits the gateway", run: checkPodSecurity},
		{id: "policy-admission", category: Policy, description: "the server admits the gateway's container (dry run)", run: checkAdmission},
		{id: "policy-webhooks", category: Policy, description: "admission webhooks can be asked", run: checkWebhooks},
		{id: "policy-sidecars", category: Policy, description: "new pods can have a gateway as they are created (admission)", run: checkSidecars},
		{id: "policy-annotations", category: Policy, description: "annotations about gateways can be read", run: checkAnnotations},
		{id: "nodes-os", category: Nodes, description: "the nodes run Linux", run: given((*facts).relevantNodes, checkOS)},
		{id: "nodes-kernel", category: Nodes, description: "the nodes' kernels have what gateways need", run: given((*facts).relevantNodes, checkKernel)},
		{id: "nodes-cgroup", category: Nodes, description: "the nodes use cgroup v2", run: given((*facts).relevantNodes, checkCgroup)},
		{id: "nodes-pods", category: Nodes, description: "the pods can have gateways", run: given((*facts).pods, checkEligible)},
		{id: "nodes-limits", category: Nodes, description: "the pods' limits leave enough for gateways", run: given((*facts).pods, checkLimits)},
		{id: "nodes-storage", category: Nodes, description: "the pods have room for the log of a gateway", run: checkStorage},
		{id: "image-pull", category: Image, description: "the gateway's image can be pulled and runs", slow: true, run: checkImage},
		{id: "authority-found", category: Authority, description: "the authority is here, and the cluster trusts it", run: checkAuthority},
		{id: "authority-expiry", category: Authority, description: "the authority is valid for long enough", run: given((*facts).present, checkAuthorityExpiry)},
		{id: "authority-rotation", category: Authority, description: "no rotation of the authority is under way", run: given((*facts).present, checkRotation)},
		{id: "ranges-found", category: Ranges, description: "the ranges of pods and Services are known", run: checkRanges},
		{id: "network-policies", category: NetworkPolicy, description: fmt.Sprintf("network policies let gateways meet on port %d", api.PeerPort), run: checkNetworkPolicies},
		{id: "mesh-pods", category: Meshes, description: "no other mesh is in the pods", run: given((*facts).pods, checkMeshes)},
		{id: "mesh-cluster", category: Meshes, description: "the network plug-in does not encrypt as well", run: checkCilium},
		{id: "gateways-state", category: Gateways, description: "the gateways are well", run: given((*facts).state, checkGateways)},
		{id: "gateways-coverage", category: Gateways, description: "the gateways capture what the cluster has", run: given((*facts).answered, checkCoverage)},
		{id: "gateways-trust", category: Gateways, description: "the gateways trust no other authority", run: given((*facts).answered, checkTrust)},
		{id: "gateways-version", category: Gateways, description: "the gateways have the plugin's version", run: given((*facts).answered, checkSkew)},
		{id: "peers-plaintext", category: Peers, description: "no connections go in plaintext", run: given((*facts).answered, checkPlaintext)},
		{id: "peers-strict", category: Peers, description: "strict mode keeps no known caller out", run: given((*facts).pods, checkStrict)},
	}
	if c.Sign == "" {
		return list
	}
	behind := 1 + slices.IndexFunc(list, func(k check) bool { return k.id == "authority-rotation" })
	return slices.Insert(list, behind, signChecks()...)
}

func checkPlugin(_ context.Context, f *facts) []Item {
	return ok("%s, %s/%s", f.Version, runtime.GOOS, runtime.GOARCH)
}

func checkKubeconfig(_ context.Context, f *facts) []Item {
	if f.Unread != nil {
		return []Item{failed(Error, f.Unread)}
	}
	return ok("%s", f.Context)
}

func checkKubectl(_ context.Context, f *facts) []Item {
	path, err := f.LookPath("kubectl")
	if err != nil {
		return []Item{{Result: Warning, Detail: "there is no kubectl on the PATH, and hints name its commands",
			Hint: "install it: https://kubernetes.io/docs/tasks/tools/"}}
	}
	return ok("%s", path)
}

func checkReachable(_ context.Context, f *facts) []Item {
	info, err := f.server()
	if err != nil {
		return []Item{{Result: Error, Detail: "asking the API server for its version: " + err.Error(),
			Hint: "look at --context, the network and your login", Command: "kubectl cluster-info"}}
	}
	return ok("Kubernetes %s", info.GitVersion)
}

func checkServerVersion(ctx context.Context, f *facts) []Item {
	if err := inject.CheckServer(ctx, f.Client.Discovery(), inject.DeliveryCSR); err != nil {
		return []Item{failed(Error, err)}
	}
	if err := inject.CheckServer(ctx, f.Client.Discovery(), inject.DeliverySecret); err != nil {
		return []Item{failed(Warning, err)}
	}
	return ok("for both ways of delivery")
}

func checkServerClock(ctx context.Context, f *facts) []Item {
	if f.ServerTime == nil {
		return skipped("the server's clock cannot be read")
	}
	before := f.Now()
	server, err := f.ServerTime(ctx)
	if err != nil {
		return skipped("the server's clock cannot be read: %v", err)
	}
	after := f.Now()
	// The header of HTTP has whole seconds, which is less than maxSkew.
	skew, direction := before.Sub(server), "behind"
	if server.After(after) {
		skew, direction = server.Sub(after), "ahead of"
	}
	if skew <= maxSkew {
		return nil
	}
	return []Item{{Result: Error, Detail: fmt.Sprintf("the server's clock is %s %s that of this machine, and certificates bear %s",
		duration.HumanDuration(skew), direction, duration.HumanDuration(maxSkew)), Hint: "set the clock that is wrong"}}
}

func checkFound(_ context.Context, f *facts) []Item {
	pods, err := f.found()
	list := lists.Map(targets.Errors(err), func(err error) Item { return failed(Error, err) })
	if len(pods) == 0 {
		return orOK(list, "none in namespace %s", f.Namespace)
	}
	return orOK(list, "%d", len(pods))
}
