package authority

import (
	"cmp"
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

// EnvDir is the environment variable that names the directory of the authority.
const EnvDir = "KUBE_GATEWAY_AUTHORITY_DIR"

// Location says where the authority of a cluster is kept.
type Location struct {
	// Client speaks to the cluster.
	Client kubernetes.Interface
	// Dir is the directory on this machine. If empty, it is
	// $KUBE_GATEWAY_AUTHORITY_DIR, or else kubectl-gateway/<uid of the cluster> below
	// $XDG_DATA_HOME if that is set and absolute (XDG Base Directory Specification),
	// else below ~/.local/share, on macOS ~/Library/Application Support and on Windows
	// %LOCALAPPDATA%.
	Dir string
	// Step, if not nil, is called after each change of the file system. An error
	// ends the work there and then: tests interrupt it so.
	Step func(name string) error
}

// files returns the directory. It asks the cluster only for the default one.
func (l *Location) files(ctx context.Context) (*dirStore, error) {
	dir := cmp.Or(l.Dir, os.Getenv(EnvDir))
	if dir == "" {
		uid, err := clusterUID(ctx, l.Client)
		if err != nil {
			return nil, err
		}
		if dir, err = defaultDir(runtime.GOOS, uid, os.Getenv); err != nil {
			return nil, err
		}
	}
	return &dirStore{dir: dir, step: l.Step}, nil
}

func defaultDir(goos, clusterUID string, getenv func(string) string) (string, error) {
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
