// Package chart tests what is in install/ with Helm's and Kustomize's own code: the chart lints, its values are
// checked, what it renders is what the plugin says that it needs, and the Kustomize base, which is made from it, is
// the same. "make docs" makes the base anew. It is a module of its own to keep all that out of the plugin's, and
// pins the Helm of the end-to-end tests: "make helm" builds its command.
package chart
