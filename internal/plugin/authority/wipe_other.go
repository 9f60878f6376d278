//go:build !unix

package authority

import "os"

// openOld opens nothing: what is open cannot be replaced there.
func openOld(string) (*os.File, error) { return nil, nil }

// wipe does nothing: the file was replaced, and is not overwritten.
func wipe(*os.File) (remark string, err error) {
	return "the file that was there is removed, and was not overwritten: what has been on the disk may be found there", nil
}
