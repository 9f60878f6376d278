// Package api holds the data that the plugin and the gateway exchange: the configuration
// that enable passes to a gateway, the status that a gateway reports, and the line that
// it logs for each connection. Every type is plain data with a JSON form.
package api
