#!/bin/sh
# A key command (see docs/OPERATIONS.md) for an ECDSA key on a PKCS #11 token: a smart card, an HSM, or
# a module of p11-kit. It needs pkcs11-tool (OpenSC), jq and base64.
#
#   kubectl gateway init-ca --key-command=./keycommand-pkcs11.sh \
#     --key-arg=/usr/lib/softhsm/libsofthsm2.so --key-arg=mesh --key-arg=/etc/mesh/pin
#
# The arguments are the module, the label of the key, and a file with the PIN, which only you can read.
set -eu
module=$1 label=$2 pin=$3
version=keycommand.kubectl-gateway.github.io/v1
request=$(cat)
field() { printf %s "$request" | jq -r "$1"; }
fail() { jq -nc --arg v "$version" --arg e "$1" '{apiVersion: $v, error: $e}'; exit 1; }
[ "$(field .apiVersion)" = "$version" ] || fail "this program speaks $version"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
token() { pkcs11-tool --module "$module" --label "$label" "$@" >/dev/null; }
token --read-object --type pubkey --output-file "$dir/public" || fail "the token has no public key $label"
public=$(base64 -w0 "$dir/public")

case $(field .operation) in
public-key)
	jq -nc --arg v "$version" --arg k "$public" '{apiVersion: $v, publicKey: $k}'
	;;
sign)
	[ "$(field .publicKey)" = "$public" ] || fail "another key is to sign than $label"
	case $(field .algorithm) in ECDSA-*) ;; *) fail "$label signs with ECDSA alone" ;; esac
	field .digest | base64 -d >"$dir/digest"
	# The tool reads the PIN from its environment, where only you and root see it.
	PIN=$(cat "$pin") token --login --pin env:PIN --sign --mechanism ECDSA --signature-format openssl \
		--input-file "$dir/digest" --output-file "$dir/signature" || fail "the token has not signed"
	jq -nc --arg v "$version" --arg s "$(base64 -w0 "$dir/signature")" '{apiVersion: $v, signature: $s}'
	;;
*) fail "operation $(field .operation) is unknown" ;;
esac
