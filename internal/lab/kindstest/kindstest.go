// Package kindstest is what a test's API server needs so that clients find out
// which kinds of objects it has.
package kindstest

import (
	"encoding/json"
	"net/http"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kind is a kind of object, with kubectl's short names for it.
type kind struct {
	name, resource, singular string
	short                    []string
	clusterWide              bool
}

// kinds are those of Kubernetes that have to do with pods, some that have
// nothing to do with them, and one of an extension.
func kinds() map[string][]kind {
	return map[string][]kind{
		"": {
			{name: "Pod", resource: "pods", singular: "pod", short: []string{"po"}},
			{name: "Service", resource: "services", singular: "service", short: []string{"svc"}},
			{name: "ConfigMap", resource: "configmaps", singular: "configmap", short: []string{"cm"}},
			{name: "ReplicationController", resource: "replicationcontrollers", singular: "replicationcontroller", short: []string{"rc"}},
			{name: "Node", resource: "nodes", singular: "node", short: []string{"no"}, clusterWide: true},
			{name: "Namespace", resource: "namespaces", singular: "namespace", short: []string{"ns"}, clusterWide: true},
		},
		"apps": {
			{name: "Deployment", resource: "deployments", singular: "deployment", short: []string{"deploy"}},
			{name: "ReplicaSet", resource: "replicasets", singular: "replicaset", short: []string{"rs"}},
			{name: "StatefulSet", resource: "statefulsets", singular: "statefulset", short: []string{"sts"}},
			{name: "DaemonSet", resource: "daemonsets", singular: "daemonset", short: []string{"ds"}},
		},
		"batch": {
			{name: "Job", resource: "jobs", singular: "job"},
			{name: "CronJob", resource: "cronjobs", singular: "cronjob", short: []string{"cj"}},
		},
		"extension.example": {
			{name: "Rollout", resource: "rollouts", singular: "rollout", short: []string{"ro"}},
			{name: "Recipe", resource: "recipes", singular: "recipe"},
		},
	}
}

// Serve answers requests for the kinds of a server. It reports whether r is one.
func Serve(w http.ResponseWriter, r *http.Request) bool {
	core := r.URL.Path == "/api"
	if !core && r.URL.Path != "/apis" {
		return false
	}
	list := discoveryv2.APIGroupDiscoveryList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"}}
	for group, all := range kinds() {
		if (group == "") != core {
			continue
		}
		version := discoveryv2.APIVersionDiscovery{Version: "v1", Freshness: discoveryv2.DiscoveryFreshnessCurrent}
		for _, k := range all {
			scope := discoveryv2.ScopeNamespace
			if k.clusterWide {
				scope = discoveryv2.ScopeCluster
			}
			version.Resources = append(version.Resources, discoveryv2.APIResourceDiscovery{
				Resource: k.resource, SingularResource: k.singular, ShortNames: k.short, Scope: scope,
				ResponseKind: &metav1.GroupVersionKind{Group: group, Version: "v1", Kind: k.name},
				Verbs:        []string{"get", "list"},
			})
		}
		list.Items = append(list.Items, discoveryv2.APIGroupDiscovery{
			ObjectMeta: metav1.ObjectMeta{Name: group}, Versions: []discoveryv2.APIVersionDiscovery{version}})
	}
	w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	_ = json.NewEncoder(w).Encode(list)
	return true
}
