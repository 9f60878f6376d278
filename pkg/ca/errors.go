package ca

import "errors"

// Errors that callers can tell apart with [errors.Is]. Most come with a hint.
var (
	// ErrNoAuthority means that no authority was found where it was looked for.
	ErrNoAuthority = errors.New("there is no authority")
	// ErrExists means that an authority is there already and was left alone.
	ErrExists = errors.New("an authority exists already")
	// ErrDamaged means that what was found cannot be read as an authority.
	ErrDamaged = errors.New("authority is damaged")
	// ErrMismatch means that the private key belongs to another certificate.
	ErrMismatch = errors.New("private key does not belong to the certificate")
	// ErrExposed means that other users of the machine can read or replace the key.
	ErrExposed = errors.New("authority is open to other users of this machine")
	// ErrNotAuthority means that the certificate may not sign pods' certificates.
	ErrNotAuthority = errors.New("certificate cannot serve as an authority")
	// ErrExpired means that now is outside the authority's validity.
	ErrExpired = errors.New("authority is not valid at this time")
	// ErrNoBundle means that the cluster has no trust bundle.
	ErrNoBundle = errors.New("the cluster has no trust bundle")
	// ErrForeign means that the cluster trusts another authority.
	ErrForeign = errors.New("the cluster trusts another authority")
	// ErrChanged means that somebody else changed an object of the cluster
	// between the moment it was read and the moment it was to be written.
	ErrChanged = errors.New("somebody else changed it at the same time")
	// ErrBadRequest means that no certificate can be made for a request.
	ErrBadRequest = errors.New("certificate request cannot be used")
)
