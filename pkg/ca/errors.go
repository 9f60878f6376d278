package ca

import "errors"

// Errors that callers can tell apart with [errors.Is]. Most come with a hint.
var (
	// ErrDamaged means that what was found cannot be read as an authority.
	ErrDamaged = errors.New("authority is damaged")
	// ErrMismatch means that the private key belongs to another certificate.
	ErrMismatch = errors.New("private key does not belong to the certificate")
	// ErrNotAuthority means that the certificate may not sign pods' certificates.
	ErrNotAuthority = errors.New("certificate cannot serve as an authority")
	// ErrExpired means that now is outside the authority's validity.
	ErrExpired = errors.New("authority is not valid at this time")
	// ErrEnded means that two authorities have signed that one follows the other, and
	// that this does not hold now.
	ErrEnded = errors.New("the statement that two roots belong together has ended")
	// ErrBadRequest means that no certificate can be made for a request.
	ErrBadRequest = errors.New("certificate request cannot be used")
	// ErrKeyType is an ErrBadRequest whose key is of another kind than those of gateways.
	ErrKeyType = errors.New("its key is not ECDSA P-256")
)
