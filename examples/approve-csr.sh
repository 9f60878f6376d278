#!/bin/sh
# approve-csr.sh SIGNER USER: approves the CertificateSigningRequests that USER makes for SIGNER, as they come. It looks at
# nothing else: whoever can make requests as USER has any certificate from that signer. Who runs it needs get, list and watch of
# certificatesigningrequests, update of certificatesigningrequests/approval, and approve of that one signer.
set -eu
kubectl get certificatesigningrequests --field-selector="spec.signerName=$1" --watch --output=go-template='
{{- if not .status.conditions}}{{.metadata.name}} {{.spec.username}}{{"\n"}}{{end}}' |
	while read -r name user; do
		if [ "$user" = "$2" ]; then kubectl certificate approve "$name"; fi
	done
