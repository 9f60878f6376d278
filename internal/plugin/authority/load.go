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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Load returns the authority of a cluster: the one on this machine, or else the
// one in the cluster's Secret. It must be in the cluster's trust bundle: running
// gateways would refuse what another one issues. During a rotation the bundle of
// what Load returns holds both roots, also where the old authority is found; roots
// that were retired never come back. The error is [ErrNoAuthority] if there is neither,
// [ErrForeign] or [ErrNoBundle] if the cluster does not trust what was found,
// [ErrRetired], [ca.ErrEnded] if a rotation has waited for too long, [ErrSigner] if the
// certificates come from a signer (see [Open]), or one of those of [LoadDir].
func Load(ctx context.Context, l Location) (*ca.Authority, error) {
	files, err := l.files(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := files.chosen()
	if err != nil {
		return nil, err
	}
	a, err := files.get(current)
	kept := store(files)
	if errors.Is(err, ErrNoAuthority) {
		secrets := &secretStore{client: l.Client}
		kept = secrets
		a, err = secrets.get(ctx, current)
		if apierrors.IsForbidden(err) || errors.Is(err, ErrNoAuthority) || err == nil && chosen != nil {
			return nil, noAuthority(ctx, l.Client, files)
		}
	}
	if err != nil {
		return nil, err
	}
	retired, err := kept.retiredRoots(ctx)
	if err == nil {
		err = checkNotRetired(a, retired, kept.String())
	}
	if err != nil {
		return nil, err
	}
	bundle, err := fetchBundle(ctx, l.Client)
	if errors.Is(err, ErrNoBundle) {
		return nil, api.WithHint(fmt.Errorf("checking that the cluster trusts the authority of %s: %w", kept, ErrNoBundle),
			"run 'kubectl gateway init-ca' again: it publishes the trust bundle and changes nothing else")
	}
	if err != nil {
		return nil, err
	}
	if !bundle.holds(a) {
		return nil, notTrusted(kept.String(), a, bundle)
	}
	a, remarks, err := bundle.trusting(a, retired)
	if err == nil {
		revoked, refused := a.ReadRevocations(bundle.revoked)
		if refused > 0 {
			remarks = append(remarks, fmt.Sprintf("configmap %s in %s says that certificates are revoked, and the authority has not signed that: gateways are not told; "+
				"find out who wrote it, and revoke again what is to be", BundleName, Namespace))
		}
		a = a.Revoking(revoked)
	}
	if l.Remark != nil {
		for _, remark := range remarks {
			l.Remark(remark)
		}
	}
	return a, err
}

// notTrusted is the error for an authority that is not in the trust bundle.
func notTrusted(where string, a *ca.Authority, b *bundle) error {
	return fmt.Errorf("the authority of %s (%s) is a foreign one: %w", where, short(a.Root()), foreignError(b))
}

// noAuthority tells a cluster without an authority from one whose authority
// somebody else has, and from one with a signer.
func noAuthority(ctx context.Context, client kubernetes.Interface, files *dirStore) error {
	chosen, err := files.chosen()
	if err != nil {
		return err
	}
	bundle, bundleErr := fetchBundle(ctx, client)
	if chosen != nil || bundleErr == nil && bundle.signer != nil {
		return signerOf(files, chosen, bundle, bundleErr)
	}
	err = fmt.Errorf("%w in %s", ErrNoAuthority, files.dir)
	if bundleErr == nil {
		return api.WithHint(fmt.Errorf("%w, but the cluster trusts %s", err, bundle), foreignHint)
	}
	return api.WithHint(fmt.Errorf("%w and none in the cluster", err), "run 'kubectl gateway init-ca' first")
}

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
	// Keys opens the key of the authority. If it is nil, a key that is encrypted or held by a program stays
	// closed: who only looks at an authority needs none.
	Keys *keys.Ring
	// Remark, if not nil, is told what a user has to know about the trust bundle: that
	// gateways are given two roots, or that a retired one is back.
	Remark func(line string)
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
	return &dirStore{dir: dir, keys: l.Keys, step: l.Step}, nil
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
