package rights

import (
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Use is a verb of the plugin, or what one does with certain options.
type Use string

const (
	// Enable is that of upgrade, too.
	Enable Use = "enable"
	// Annotations comes on top of Enable and Status: without it the annotations of pods alone say how gateways are to be, and
	// whoever changes by hand what others declare is not warned.
	Annotations Use = "enable, status: annotations"
	// Announce comes on top of all that changes gateways of pods: without it nothing is shown at pods.
	Announce Use = "enable and its like: events and label"
	// Secrets comes on top of Enable with --delivery=secret.
	Secrets Use = "enable --delivery=secret"
	// Endpoints comes on top of Enable, Watch and refresh: without it they capture ranges alone, and
	// cannot guess those that the cluster does not announce.
	Endpoints Use = "enable, for all that leads to pods"
	// Servers comes on top of Enable and Watch, and of Status for mode strict, where a pod
	// serves webhooks or aggregated APIs. Without them, strict mode refuses the API server.
	Servers Use = "enable of webhooks and APIs"
	// Status is that of all verbs that ask gateways: mode, allow, refresh, packets, verify, metrics.
	Status Use = "status"
	Tail   Use = "tail"
	// Support comes on top of Status and Tail.
	Support Use = "support-bundle"
	Disable Use = "disable"
	Rotate  Use = "rotate"
	// RotateCA comes on top of InitCA and Copy.
	RotateCA Use = "rotate --ca"
	// Revoke tells all gateways.
	Revoke Use = "revoke"
	InitCA Use = "init-ca"
	// Copy comes on top of InitCA: rotate --ca always looks for a copy.
	Copy Use = "init-ca --store=cluster, rotate --ca"
	// Watch comes on top of Enable.
	Watch Use = "watch"
	// Sign comes on top of Watch with --sign.
	Sign Use = "watch --sign"
	// Admission is that of admission install, show and remove. Show needs but the first of it.
	Admission Use = "admission"
	// Workloads comes on top of all others where a target is a workload.
	Workloads Use = "TARGET"
	// Requests and CSRs come on top of Enable, Rotate and Watch where a signer of the cluster issues the
	// certificates: it is asked by PodCertificateRequests or by CertificateSigningRequests.
	Requests Use = "--signer"
	CSRs     Use = "--signer-request=csr"
	// Follow comes on top of RotateCA, and of Watch for new roots of a signer. InitCA with a signer
	// reads them as well.
	Follow Use = "watch, rotate --ca, init-ca of a signer"
	// Image is check's test of the image.
	Image Use = "check --image-test"
	// Policies is check's look at network policies.
	Policies Use = "check"
)

// Scope is where a right is needed.
type Scope int

const (
	// Namespace is each namespace with pods.
	Namespace Scope = iota
	// System is the namespace kube-system.
	System
	// AllNamespaces is every namespace of the cluster, for resources that have one.
	AllNamespaces
	// Cluster is for resources without a namespace.
	Cluster
)

// Need is a line of the table: what a use asks the API server for, and what for.
type Need struct {
	Use Use
	// Verbs are those of the API, separated by spaces.
	Verbs string
	// Resource may have a subresource, as in pods/exec.
	Group, Resource string
	Scope           Scope
	// Names restrict the need to some objects.
	Names []string
	Why   string
	// Unless says when the use does without. The others are checked before
	// anything is changed.
	Unless string
}

// Table returns all that the plugin asks the API server for, by use. The roles of
// docs/OPERATIONS.md grant just that.
func Table() []Need {
	const (
		find         = "finds the pods"
		wait         = "waits for containers"
		ask          = "asks gateways"
		add          = "adds a container"
		cheaper      = "reads the status of gateways at less cost to nodes"
		commands     = "commands in containers read it"
		which        = "tells which cluster this is"
		trust        = "tells which authority the cluster trusts"
		apps         = "apps"
		ranges       = "networking.k8s.io"
		warned       = "what the warning says is known"
		noted        = "what is missing is noted"
		late         = "ten minutes later suffice"
		hooks        = "admissionregistration.k8s.io"
		called       = "finds the pods that the API server connects to"
		certificates = "certificates.k8s.io"
		ofPod        = "names the pod to the signer, with all UIDs"
		byRoots      = "reads what the signer is trusted by"
		givenRoots   = "--trust-bundle is given"
		requests     = "answers requests"
		ifNone       = "no pod is one, or the API server is in --allow-plaintext-from"
	)
	const (
		gives    = "gives new pods a gateway"
		says     = "says how gateways are to be"
		podsSay  = "the annotations of pods count"
		shows    = "shows what became of gateways"
		labels   = "labels pods with the mode of their gateways"
		unshown  = "it is not shown"
		ofOwners = "reads the annotations of workloads"
	)
	bundle, policy := []string{authority.BundleName}, []string{"kube-gateway"}
	copies := []string{authority.SecretName, authority.NextSecretName, authority.PreviousSecretName}
	system := []string{authority.Namespace}
	return []Need{
		{Use: Enable, Verbs: "get list", Resource: "pods", Why: find},
		{Use: Enable, Verbs: "watch", Resource: "pods", Why: wait},
		{Use: Enable, Verbs: "create", Resource: "pods/exec", Why: ask},
		{Use: Enable, Verbs: "create", Resource: "pods/portforward", Why: cheaper, Unless: commands},
		{Use: Enable, Verbs: "patch", Resource: "pods/ephemeralcontainers", Why: add},
		{Use: Enable, Verbs: "get", Resource: "namespaces", Names: system, Scope: System, Why: which},
		{Use: Enable, Verbs: "get", Resource: "configmaps", Names: bundle, Scope: System, Why: trust},
		{Use: Enable, Verbs: "list", Resource: "nodes", Scope: Cluster, Why: "finds ranges of pods, addresses of nodes, and what a node is", Unless: "--capture-cidr and --node-ports='' are given"},
		{Use: Enable, Verbs: "list", Group: ranges, Resource: "servicecidrs", Scope: Cluster, Why: "finds ranges of Services", Unless: "--service-cidr is given"},

		{Use: Endpoints, Verbs: "list", Resource: "services", Scope: AllNamespaces, Why: "finds external addresses, the API server, DNS, and ranges where there are no ServiceCIDRs", Unless: warned},
		{Use: Endpoints, Verbs: "list", Resource: "pods", Scope: AllNamespaces, Why: "finds host ports, and ranges where there are no podCIDRs", Unless: warned},
		{Use: Endpoints, Verbs: "list", Group: "discovery.k8s.io", Resource: "endpointslices", Scope: AllNamespaces, Why: "finds the API server", Unless: warned},

		{Use: Servers, Verbs: "list", Group: hooks, Resource: "validatingwebhookconfigurations", Scope: Cluster, Why: called, Unless: ifNone},
		{Use: Servers, Verbs: "list", Group: hooks, Resource: "mutatingwebhookconfigurations", Scope: Cluster, Why: called, Unless: ifNone},
		{Use: Servers, Verbs: "list", Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Scope: Cluster, Why: called, Unless: ifNone},
		{Use: Servers, Verbs: "list", Group: "apiregistration.k8s.io", Resource: "apiservices", Scope: Cluster, Why: called, Unless: ifNone},

		{Use: Annotations, Verbs: "get", Resource: "namespaces", Scope: Cluster, Why: says, Unless: podsSay},
		{Use: Annotations, Verbs: "get", Group: apps, Resource: "deployments", Why: says, Unless: podsSay},
		{Use: Annotations, Verbs: "get", Group: apps, Resource: "statefulsets", Why: says, Unless: podsSay},
		{Use: Annotations, Verbs: "get", Group: apps, Resource: "daemonsets", Why: says, Unless: podsSay},
		{Use: Annotations, Verbs: "get", Group: "batch", Resource: "jobs", Why: says, Unless: podsSay},

		{Use: Announce, Verbs: "create", Resource: "events", Why: shows, Unless: unshown},
		{Use: Announce, Verbs: "patch", Resource: "pods", Why: labels, Unless: unshown},

		{Use: Secrets, Verbs: "create", Resource: "secrets", Why: "brings the key to the pod"},
		{Use: Secrets, Verbs: "list", Resource: "secrets", Why: "finds what an enable that was killed has left", Unless: "none was killed"},
		{Use: Secrets, Verbs: "delete", Resource: "secrets", Why: "deletes the key once the gateway has read it"},

		{Use: Status, Verbs: "get list", Resource: "pods", Why: find},
		{Use: Status, Verbs: "create", Resource: "pods/exec", Why: ask},
		{Use: Status, Verbs: "create", Resource: "pods/portforward", Why: cheaper, Unless: commands},

		{Use: Tail, Verbs: "get list watch", Resource: "pods", Why: find},
		{Use: Tail, Verbs: "get", Resource: "pods/log", Why: "reads the logs of gateways"},

		{Use: Support, Verbs: "list", Resource: "events", Why: "reads the events of pods", Unless: noted},
		{Use: Support, Verbs: "get", Resource: "nodes", Scope: Cluster, Why: "reads what is known of the nodes", Unless: noted},

		{Use: Disable, Verbs: "get list", Resource: "pods", Why: find},
		{Use: Disable, Verbs: "watch", Resource: "pods", Why: wait},
		{Use: Disable, Verbs: "create", Resource: "pods/exec", Why: ask},
		{Use: Disable, Verbs: "create", Resource: "pods/portforward", Why: cheaper, Unless: commands},
		{Use: Disable, Verbs: "patch", Resource: "pods/ephemeralcontainers", Why: add + " that cleans up", Unless: "no gateway has died"},

		{Use: Rotate, Verbs: "get list", Resource: "pods", Why: find},
		{Use: Rotate, Verbs: "create", Resource: "pods/exec", Why: ask},
		{Use: Rotate, Verbs: "create", Resource: "pods/portforward", Why: cheaper, Unless: commands},
		{Use: Rotate, Verbs: "get", Resource: "namespaces", Names: system, Scope: System, Why: which},
		{Use: Rotate, Verbs: "get", Resource: "configmaps", Names: bundle, Scope: System, Why: trust},

		{Use: RotateCA, Verbs: "get list", Resource: "pods", Scope: AllNamespaces, Why: find},
		{Use: RotateCA, Verbs: "create", Resource: "pods/exec", Scope: AllNamespaces, Why: ask},
		{Use: RotateCA, Verbs: "create", Resource: "pods/portforward", Scope: AllNamespaces, Why: cheaper, Unless: commands},
		{Use: RotateCA, Verbs: "create", Resource: "events", Scope: AllNamespaces, Why: shows, Unless: unshown},
		{Use: RotateCA, Verbs: "patch", Resource: "pods", Scope: AllNamespaces, Why: labels, Unless: unshown},

		{Use: Revoke, Verbs: "get list", Resource: "pods", Scope: AllNamespaces, Why: find},
		{Use: Revoke, Verbs: "create", Resource: "pods/exec", Scope: AllNamespaces, Why: ask},
		{Use: Revoke, Verbs: "create", Resource: "events", Scope: AllNamespaces, Why: shows, Unless: unshown},
		{Use: Revoke, Verbs: "patch", Resource: "pods", Scope: AllNamespaces, Why: labels, Unless: unshown},
		{Use: Revoke, Verbs: "get", Resource: "namespaces", Names: system, Scope: System, Why: which},
		{Use: Revoke, Verbs: "get update", Resource: "configmaps", Names: bundle, Scope: System, Why: "publishes what is revoked"},

		{Use: InitCA, Verbs: "get", Resource: "namespaces", Names: system, Scope: System, Why: which},
		{Use: InitCA, Verbs: "create", Resource: "configmaps", Scope: System, Why: "publishes the authority"},
		{Use: InitCA, Verbs: "get update", Resource: "configmaps", Names: bundle, Scope: System, Why: "publishes the authority again"},

		{Use: Copy, Verbs: "create", Resource: "secrets", Scope: System, Why: "keeps the authority in the cluster"},
		{Use: Copy, Verbs: "get update delete", Resource: "secrets", Names: copies, Scope: System, Why: "replaces it"},

		{Use: Requests, Verbs: "create get", Group: certificates, Resource: "podcertificaterequests", Why: "has the signer issue a certificate"},
		{Use: Requests, Verbs: "get", Resource: "serviceaccounts", Why: ofPod},
		{Use: Requests, Verbs: "get", Resource: "nodes", Scope: Cluster, Why: ofPod},
		{Use: Requests, Verbs: "list", Group: certificates, Resource: "clustertrustbundles", Scope: Cluster, Why: byRoots, Unless: givenRoots},

		{Use: CSRs, Verbs: "create get", Group: certificates, Resource: "certificatesigningrequests", Scope: Cluster, Why: "has the signer issue a certificate"},
		{Use: CSRs, Verbs: "get", Resource: "serviceaccounts", Why: ofPod},
		{Use: CSRs, Verbs: "get", Resource: "nodes", Scope: Cluster, Why: ofPod},
		{Use: CSRs, Verbs: "list", Group: certificates, Resource: "clustertrustbundles", Scope: Cluster, Why: byRoots, Unless: givenRoots},

		{Use: Follow, Verbs: "list", Group: certificates, Resource: "clustertrustbundles", Scope: Cluster, Why: byRoots, Unless: givenRoots},
		{Use: Follow, Verbs: "get update", Resource: "configmaps", Names: bundle, Scope: System, Why: "notes which roots all gateways trust"},

		{Use: Watch, Verbs: "list watch", Resource: "namespaces", Scope: Cluster, Why: "reads the annotations of namespaces"},
		{Use: Watch, Verbs: "watch", Resource: "nodes", Scope: Cluster, Why: "learns of new nodes"},
		{Use: Watch, Verbs: "watch", Resource: "services", Scope: AllNamespaces, Why: "learns of new external addresses", Unless: late},
		{Use: Watch, Verbs: "watch", Group: ranges, Resource: "servicecidrs", Scope: Cluster, Why: "learns of new ranges of Services", Unless: late},
		{Use: Watch, Verbs: "watch", Group: "discovery.k8s.io", Resource: "endpointslices", Scope: AllNamespaces, Why: "learns of new addresses of the API server", Unless: late},
		{Use: Watch, Verbs: "list watch", Group: apps, Resource: "replicasets", Why: "tells which Deployment a pod belongs to"},
		{Use: Watch, Verbs: "list watch", Group: apps, Resource: "deployments", Why: ofOwners, Unless: podsSay},
		{Use: Watch, Verbs: "list watch", Group: apps, Resource: "statefulsets", Why: ofOwners, Unless: podsSay},
		{Use: Watch, Verbs: "list watch", Group: apps, Resource: "daemonsets", Why: ofOwners, Unless: podsSay},
		{Use: Watch, Verbs: "list watch", Group: "batch", Resource: "jobs", Why: ofOwners, Unless: podsSay},

		{Use: Sign, Verbs: "list watch", Group: certificates, Resource: "podcertificaterequests", Scope: AllNamespaces, Why: requests},
		{Use: Sign, Verbs: "update", Group: certificates, Resource: "podcertificaterequests/status", Scope: AllNamespaces, Why: requests},
		{Use: Sign, Verbs: "list watch", Group: certificates, Resource: "certificatesigningrequests", Scope: Cluster, Why: requests},
		{Use: Sign, Verbs: "update", Group: certificates, Resource: "certificatesigningrequests/approval", Scope: Cluster, Why: requests},
		{Use: Sign, Verbs: "update", Group: certificates, Resource: "certificatesigningrequests/status", Scope: Cluster, Why: requests},
		{Use: Sign, Verbs: "approve sign attest", Group: certificates, Resource: "signers", Names: []string{exampleSigner}, Scope: Cluster, Why: "is that signer"},
		{Use: Sign, Verbs: "create", Group: certificates, Resource: "clustertrustbundles", Scope: Cluster, Why: "publishes the roots"},
		{Use: Sign, Verbs: "get update", Group: certificates, Resource: "clustertrustbundles", Names: []string{exampleBundle}, Scope: Cluster, Why: "publishes the roots"},
		{Use: Sign, Verbs: "get", Resource: "pods", Scope: AllNamespaces, Why: "holds requests against the pod"},
		{Use: Sign, Verbs: "get", Resource: "serviceaccounts", Scope: AllNamespaces, Why: "holds requests against the pod"},
		{Use: Sign, Verbs: "get", Resource: "nodes", Scope: Cluster, Why: "holds requests against the pod"},
		{Use: Sign, Verbs: "create", Group: "authorization.k8s.io", Resource: "subjectaccessreviews", Scope: Cluster, Why: "asks what those may do who ask by CertificateSigningRequests"},

		{Use: Admission, Verbs: "get update delete", Group: hooks, Resource: "mutatingadmissionpolicies", Names: policy, Scope: Cluster, Why: gives},
		{Use: Admission, Verbs: "get update delete", Group: hooks, Resource: "mutatingadmissionpolicybindings", Names: policy, Scope: Cluster, Why: gives},
		{Use: Admission, Verbs: "create", Group: hooks, Resource: "mutatingadmissionpolicies", Scope: Cluster, Why: gives},
		{Use: Admission, Verbs: "create", Group: hooks, Resource: "mutatingadmissionpolicybindings", Scope: Cluster, Why: gives},

		{Use: Workloads, Verbs: "get list", Group: apps, Resource: "deployments", Why: find},
		{Use: Workloads, Verbs: "get list", Group: apps, Resource: "statefulsets", Why: find},
		{Use: Workloads, Verbs: "get list", Group: apps, Resource: "daemonsets", Why: find},
		{Use: Workloads, Verbs: "get list", Group: apps, Resource: "replicasets", Why: find},
		{Use: Workloads, Verbs: "get list", Group: "batch", Resource: "jobs", Why: find},
		{Use: Workloads, Verbs: "get list", Group: "batch", Resource: "cronjobs", Why: find},
		{Use: Workloads, Verbs: "get", Resource: "services", Why: find},

		{Use: Image, Verbs: "create get delete", Resource: "pods", Why: "runs the image for a moment"},
		{Use: Policies, Verbs: "list", Group: ranges, Resource: "networkpolicies", Why: "reads network policies"},
	}
}

// Right is one kind of request to the API server.
type Right struct {
	Verb, Group, Resource, Subresource string
	// Name restricts it to one object.
	Name  string
	Scope Scope
}

// String names r, and where it is needed unless that is a namespace with pods.
func (r Right) String() string {
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	if r.Group != "" {
		resource += "." + r.Group
	}
	words := []string{r.Verb, resource}
	if r.Name != "" {
		words = append(words, r.Name)
	}
	switch r.Scope {
	case System:
		words = append(words, "in", authority.Namespace)
	case Cluster:
		words = append(words, "of the cluster")
	case AllNamespaces:
		words = append(words, "in all namespaces")
	}
	return strings.Join(words, " ")
}

// rights are those that n stands for.
func (n Need) rights() []Right {
	names := n.Names
	if len(names) == 0 {
		names = []string{""}
	}
	resource, sub, _ := strings.Cut(n.Resource, "/")
	var list []Right
	for verb := range strings.FieldsSeq(n.Verbs) {
		for _, name := range names {
			list = append(list, Right{Verb: verb, Group: n.Group, Resource: resource, Subresource: sub, Name: name, Scope: n.Scope})
		}
	}
	return list
}

// Of returns all rights that uses need, in the order of the table.
func Of(uses ...Use) []Right { return of(uses, func(Need) bool { return true }) }

// Issuing returns what is used where issuer issues the certificates.
func Issuing(issuer ca.Issuer) []Use {
	s, ok := issuer.(*signer.Signer)
	switch {
	case !ok:
		return nil
	case s.Asks() == signer.RequestCSR:
		return []Use{CSRs}
	}
	return []Use{Requests}
}

// Names of the table in the place of those of --sign.
const (
	exampleSigner = "example.com/kube-gateway"
	exampleBundle = "example.com:kube-gateway:kube-gateway-trust"
)

// Signing returns the rights of Sign for a signer and its ClusterTrustBundle. namespace is where it signs, empty for all.
func Signing(namespace, signer, bundle string) []Right {
	list := Of(Sign)
	for i := range list {
		switch r := &list[i]; {
		case r.Name == exampleSigner:
			r.Name = signer
		case r.Name == exampleBundle:
			r.Name = bundle
		case r.Scope == AllNamespaces && namespace != "":
			r.Scope = Namespace
		}
	}
	return list
}

// Must returns the rights without which uses fail in a namespace with pods.
func Must(uses ...Use) []Right {
	return of(uses, func(n Need) bool { return n.Scope == Namespace && n.Unless == "" })
}

func of(uses []Use, want func(Need) bool) []Right {
	var list []Right
	for _, use := range uses {
		for _, n := range Table() {
			if n.Use != use || !want(n) {
				continue
			}
			for _, r := range n.rights() {
				if !slices.Contains(list, r) {
					list = append(list, r)
				}
			}
		}
	}
	return list
}

// namespaced reports whether a resource is in namespaces.
func namespaced(resource string) bool {
	return slices.ContainsFunc(Table(), func(n Need) bool { return n.Resource == resource && n.Scope != Cluster })
}
