package keycommand

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Serve answers the request in r with signer's key, on w. It returns the error that it has written as well, for the
// program's exit code. A crypto.MessageSigner gets the message, and others its hash.
func Serve(signer crypto.Signer, r io.Reader, w io.Writer) error {
	response, err := answer(signer, r)
	if err != nil {
		response = &Response{Error: err.Error()}
	}
	response.APIVersion = Version
	if err := json.NewEncoder(w).Encode(response); err != nil {
		return err
	}
	return err
}

func answer(signer crypto.Signer, r io.Reader) (*Response, error) {
	var request Request
	if err := read(r, &request); err != nil {
		return nil, err
	}
	if request.APIVersion != Version {
		return nil, fmt.Errorf("%w: apiVersion is %.60q", ErrProtocol, request.APIVersion)
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	switch request.Operation {
	case PublicKey:
		return &Response{PublicKey: public}, nil
	case Sign:
	default:
		return nil, fmt.Errorf("%w: operation is %.60q", ErrProtocol, request.Operation)
	}
	if !bytes.Equal(public, request.PublicKey) {
		return nil, fmt.Errorf("another key is to sign than the one that is here")
	}
	known := algorithms(signer.Public())
	i := slices.IndexFunc(known, func(a algorithm) bool { return a.name.String() == request.Algorithm })
	if i < 0 {
		return nil, fmt.Errorf("keys of type %T cannot sign with %.60q", signer.Public(), request.Algorithm)
	}
	signature, err := crypto.SignMessage(signer, rand.Reader, request.Message, known[i].hash)
	if err != nil {
		return nil, err
	}
	return &Response{Signature: signature}, nil
}
