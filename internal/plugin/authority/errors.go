package authority

import "errors"

// Errors that callers can tell apart with [errors.Is], besides those of package
// ca. Most come with a hint.
var (
	// ErrNoAuthority means that no authority was found where it was looked for.
	ErrNoAuthority = errors.New("there is no authority")
	// ErrExists means that an authority is there already and was left alone.
	ErrExists = errors.New("an authority exists already")
	// ErrExposed means that other users of the machine can read or replace the key.
	ErrExposed = errors.New("authority is open to other users of this machine")
	// ErrNoBundle means that the cluster has no trust bundle.
	ErrNoBundle = errors.New("the cluster has no trust bundle")
	// ErrForeign means that the cluster trusts another authority.
	ErrForeign = errors.New("the cluster trusts another authority")
	// ErrSigner means that a signer of the cluster issues the certificates, and no authority.
	ErrSigner = errors.New("certificates come from a signer of the cluster, and not from an authority")
	// ErrRetired means that a rotation has retired the authority, for good.
	ErrRetired = errors.New("a rotation has retired its root")
	// ErrChanged means that somebody else changed an object of the cluster
	// between the moment it was read and the moment it was to be written.
	ErrChanged = errors.New("somebody else changed it at the same time")
)
