// Package rights knows what the plugin asks the API server for, verb by verb, and says
// which of it the user may not do.
//
//	table.go      the table of rights
//	preflight.go  asks the server for them, before anything is changed
//	rights.go     what to do about one that is missing
package rights

import (
	"fmt"
	"regexp"
	"strings"
)

// denied is how the API server says that an authorizer said no; its words in front
// name the object (k8s.io/apiserver, handlers/responsewriters, ForbiddenMessage).
var denied = regexp.MustCompile(`User "[^"]*" cannot ([a-z]+) (?:resource "([a-z0-9./-]+)" in API group "([a-z0-9.-]*)"(?: (in the namespace "([a-z0-9-]+)"|at the cluster scope))?|path "([^"\s']+)")`)

// Hint returns which permission is missing after an error with these words, and ""
// if they do not tell.
func Hint(words string) string {
	m := denied.FindStringSubmatch(words)
	if m == nil {
		return ""
	}
	verb, resource, group, scope, namespace, path := m[1], m[2], m[3], m[4], m[5], m[6]
	if path != "" {
		return text(verb+" "+path, "", verb+" "+path)
	}
	place, flag := "", ""
	switch {
	case namespace != "":
		place, flag = " in namespace "+namespace, " -n "+namespace
	case scope != "" && namespaced(resource):
		place, flag = " in all namespaces", " -A"
	}
	return text(verb+" "+qualified(resource, group), place, question(verb, resource, group)+flag)
}

// To returns the same for a verb on a resource such as pods/exec. An empty namespace
// is that of resources without one.
func To(verb, resource, namespace string) string {
	if namespace == "" {
		return text(verb+" "+resource, "", question(verb, resource, ""))
	}
	return text(verb+" "+resource, " in namespace "+namespace, question(verb, resource, "")+" -n "+namespace)
}

func text(what, place, question string) string {
	return fmt.Sprintf("ask for a role that may %s%s; 'kubectl auth can-i %s' tells whether you may", what, place, question)
}

// question is what to ask kubectl auth can-i, for which the part behind a slash is
// an object's name.
func question(verb, resource, group string) string {
	resource, sub, found := strings.Cut(resource, "/")
	words := verb + " " + qualified(resource, group)
	if found {
		words += " --subresource=" + sub
	}
	return words
}

// qualified names a resource of a group as kubectl does: replicasets.apps/scale.
func qualified(resource, group string) string {
	if group == "" {
		return resource
	}
	resource, sub, found := strings.Cut(resource, "/")
	if found {
		sub = "/" + sub
	}
	return resource + "." + group + sub
}
