// Package api holds the types that the plugin and the gateway exchange: the configuration that
// enable gives to a gateway, the status that a gateway reports, and the line that it logs for every
// connection. Both programs are built from this package, and every type is plain data with a JSON
// form.
package api
