package authority

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// EnvDir is the environment variable that names the directory of the authority,
// in place of the default one.
const EnvDir = "KUBE_GATEWAY_AUTHORITY_DIR"

// DefaultDir returns the directory on this machine that holds the authority of
// the cluster with the given uid: kubectl-gateway/<uid> below $XDG_DATA_HOME if
// that is set and absolute (XDG Base Directory Specification), else below
// ~/.local/share, on macOS ~/Library/Application Support and on Windows
// %LOCALAPPDATA%. getenv is os.Getenv if nil.
func DefaultDir(clusterUID string, getenv func(string) string) (string, error) {
	return defaultDir(runtime.GOOS, clusterUID, getenv)
}

func defaultDir(goos, clusterUID string, getenv func(string) string) (string, error) {
	if getenv == nil {
		getenv = os.Getenv
	}
	// The uid comes from the cluster, which must not choose a path here.
	if clusterUID == "" || len(clusterUID) > 64 || strings.ContainsFunc(clusterUID, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-')
	}) {
		return "", fmt.Errorf("cluster uid %q cannot be used as the name of a directory", clusterUID)
	}
	base, err := dataHome(goos, getenv)
	if err != nil {
		return "", api.WithHint(fmt.Errorf("finding a directory for the authority: %w", err), "give one with --dir or $"+EnvDir)
	}
	return filepath.Join(base, "kubectl-gateway", clusterUID), nil
}

func dataHome(goos string, getenv func(string) string) (string, error) {
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return dir, nil
	}
	if goos == "windows" {
		if dir := getenv("LOCALAPPDATA"); dir != "" {
			return dir, nil
		}
		if home := getenv("USERPROFILE"); home != "" {
			return filepath.Join(home, "AppData", "Local"), nil
		}
		return "", errors.New("neither %LOCALAPPDATA% nor %USERPROFILE% is set")
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("$HOME is not set")
	}
	if goos == "darwin" {
		return filepath.Join(home, "Library", "Application Support"), nil
	}
	return filepath.Join(home, ".local", "share"), nil
}

// ResolveDir returns the directory of the authority: dir if it is not empty,
// else $KUBE_GATEWAY_AUTHORITY_DIR, else the default one of the cluster that
// client speaks to. getenv is os.Getenv if nil. Only the last asks the cluster.
func ResolveDir(ctx context.Context, client kubernetes.Interface, dir string, getenv func(string) string) (string, error) {
	if getenv == nil {
		getenv = os.Getenv
	}
	if dir == "" {
		dir = getenv(EnvDir)
	}
	if dir != "" {
		return dir, nil
	}
	uid, err := ClusterUID(ctx, client)
	if err != nil {
		return "", err
	}
	return DefaultDir(uid, getenv)
}
