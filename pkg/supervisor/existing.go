//go:build linux

package supervisor

import "errors"

func (s *supervisor) resetExisting() error { return errors.New("connections cannot be reset yet") }
