// Command coredns is CoreDNS with the few plugins that a cluster's name
// service needs, instead of the fifty of the stock build with their cloud
// libraries.
package main

import (
	"github.com/coredns/coredns/coremain"

	// Each import registers the plugin of its name.
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() { coremain.Run() }
