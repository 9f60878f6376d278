// Package ca is the certificate authority of gateways, and what both of its
// sides share: authorities, the certificates of pods, requests for them, chains
// and fingerprints. It knows neither files nor clusters.
//
// An [Authority] is always a working one: its key belongs to its certificate, its
// certificates form a chain up to a self-signed root, and a trial certificate
// issued by it passed verification. [New] makes one, [Import] and [Decode] read one.
// What it issues is valid only while the authority is ([Authority.ValidAt]).
package ca
