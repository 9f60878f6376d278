// Package watch keeps the gateways of a cluster's pods as they are wanted: it
// adds them where an annotation or a name on the command line asks for one,
// replaces those that died, renews certificates, and disables what nobody asks
// for any more.
//
// It is level-triggered. Informers say that a pod may have changed, a queue makes
// sure that no pod is worked on twice at a time, and [decide] alone, a pure
// function of the pod's state, says what to do. Before anything is changed, the
// pod is read again from the server, because an informer may lag behind.
package watch
