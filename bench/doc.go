// Command bench measures two gateways beside direct TCP and a plain splice
// relay, in one run and in turn, between two network namespaces joined by veth.
// README.md says how to read what it prints.
package main
