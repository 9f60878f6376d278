//go:build linux

package main

import (
	"context"
	"errors"
	"strings"
)

// debianMirror returns where this machine gets Debian's packages: as apt-get says, so
// that a machine behind a mirror of its own uses that.
func debianMirror(ctx context.Context) (string, error) {
	ask := func() (string, error) {
		return command(ctx, "", "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian", "Component: main")
	}
	found, err := ask()
	if err != nil {
		return "", err
	}
	// Without lists apt does not know yet whose a repository is.
	if found == "" {
		if _, err := command(ctx, "", "apt-get", "update", "-qq"); err != nil {
			return "", err
		}
		if found, err = ask(); err != nil {
			return "", err
		}
	}
	for mirror := range strings.Lines(found) {
		return strings.TrimSpace(mirror), nil
	}
	return "", errors.New("apt knows no repository of Debian")
}
