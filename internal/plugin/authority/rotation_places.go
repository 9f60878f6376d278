package authority

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Secrets that hold the two others of a rotation where the authority is kept in
// the cluster.
const (
	NextSecretName     = SecretName + "-next"
	PreviousSecretName = SecretName + "-previous"
)

// slot is one of the up to three authorities of a rotation.
type slot int

const (
	current slot = iota
	next
	previous
	slotCount
)

// trio holds an authority for each slot, or nil.
type trio [slotCount]*ca.Authority

func (t trio) same(u trio) bool {
	for i := range t {
		if !t[i].Equal(u[i]) {
			return false
		}
	}
	return true
}

// plain returns t without what a change that was interrupted has left in two
// slots: it is where the change was going from, or where it was going to.
func (t trio) plain() trio {
	for _, other := range []slot{next, previous} {
		if t[other] != nil && t[other].Equal(t[current]) {
			t[other] = nil
		}
	}
	return t
}

// place keeps the authorities of a rotation: a directory, or Secrets.
type place interface {
	String() string
	// read returns ErrNoAuthority if no slot is filled.
	read(ctx context.Context) (trio, error)
	// fill fills an empty slot. The error is ErrChanged if it is not empty.
	fill(ctx context.Context, to slot, a *ca.Authority) error
	// replace puts a in the place of the current authority, in one step.
	replace(ctx context.Context, a *ca.Authority) error
	// empty takes the authority out of a slot, and keeps a backup of one that is
	// nowhere else, if the place has backups.
	empty(ctx context.Context, from slot, backup bool) error
}

// move brings p from one state to another. Interrupted anywhere, it leaves a
// state whose plain form is from or to.
func move(ctx context.Context, p place, from, to trio) error {
	if !from[previous].Equal(to[previous]) {
		if from[previous] != nil {
			if err := p.empty(ctx, previous, !from[previous].Equal(to[current])); err != nil {
				return err
			}
		}
		if to[previous] != nil {
			// What is about to be replaced is kept first.
			if err := p.fill(ctx, previous, to[previous]); err != nil {
				return err
			}
		}
	}
	if !from[current].Equal(to[current]) {
		if err := p.replace(ctx, to[current]); err != nil {
			return err
		}
	}
	if from[next].Equal(to[next]) {
		return nil
	}
	if from[next] != nil {
		if err := p.empty(ctx, next, !from[next].Equal(to[current])); err != nil {
			return err
		}
	}
	if to[next] == nil {
		return nil
	}
	return p.fill(ctx, next, to[next])
}

// dirPlace is the directory of the store.
type dirPlace struct {
	store
	// backup is the path of the last one.
	backup string
}

var slotFiles = [slotCount]string{current: fileName, next: nextName, previous: previousName}

func (p *dirPlace) String() string { return Path(p.dir) }

func (p *dirPlace) read(context.Context) (trio, error) {
	var t trio
	for i, name := range slotFiles {
		a, err := loadFile(p.dir, name, slot(i) == previous)
		if err != nil && !errors.Is(err, ErrNoAuthority) {
			return trio{}, err
		}
		t[i] = a
	}
	if t == (trio{}) {
		return t, fmt.Errorf("%w in %s", ErrNoAuthority, p.dir)
	}
	return t, nil
}

func (p *dirPlace) fill(_ context.Context, to slot, a *ca.Authority) error {
	text, err := a.Encode()
	if err != nil {
		return err
	}
	if err := p.prepare(); err != nil {
		return err
	}
	err = p.place(text, slotFiles[to], false)
	if errors.Is(err, ErrExists) {
		return api.WithHint(fmt.Errorf("writing %s: %w", filepath.Join(p.dir, slotFiles[to]), ErrChanged), "run the command again")
	}
	return err
}

func (p *dirPlace) replace(_ context.Context, a *ca.Authority) error {
	text, err := a.Encode()
	if err != nil {
		return err
	}
	if err := p.prepare(); err != nil {
		return err
	}
	return p.place(text, fileName, true)
}

func (p *dirPlace) empty(_ context.Context, from slot, backup bool) error {
	if !backup {
		return p.remove(slotFiles[from])
	}
	var err error
	p.backup, err = p.retire(slotFiles[from])
	return err
}

// clusterPlace is the Secrets in the cluster. It changes only what it has read.
type clusterPlace struct {
	client  kubernetes.Interface
	secrets [slotCount]*corev1.Secret
}

var slotSecrets = [slotCount]string{current: SecretName, next: NextSecretName, previous: PreviousSecretName}

func (p *clusterPlace) String() string { return "secret " + SecretName + " in " + Namespace }

func (p *clusterPlace) read(ctx context.Context) (trio, error) {
	var t trio
	for i, name := range slotSecrets {
		p.secrets[i] = nil
		s, err := p.client.CoreV1().Secrets(Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return trio{}, clusterError("looking for the cluster's copy of the authority", "get", "secret "+name, err)
		}
		a, err := readSecretFor(s, slot(i) == previous)
		if err != nil {
			return trio{}, err
		}
		t[i], p.secrets[i] = a, s
	}
	if t == (trio{}) {
		return t, fmt.Errorf("%w in the cluster", ErrNoAuthority)
	}
	return t, nil
}

func (p *clusterPlace) fill(ctx context.Context, to slot, a *ca.Authority) error {
	data, err := secretData(a)
	if err != nil {
		return err
	}
	s := &corev1.Secret{ObjectMeta: objectMeta(slotSecrets[to], a), Type: corev1.SecretTypeTLS, Data: data}
	p.secrets[to], err = p.client.CoreV1().Secrets(Namespace).Create(ctx, s, metav1.CreateOptions{FieldManager: managedBy})
	return clusterError("storing an authority in the cluster", "create", "secret "+slotSecrets[to], err)
}

func (p *clusterPlace) replace(ctx context.Context, a *ca.Authority) error {
	data, err := secretData(a)
	if err != nil {
		return err
	}
	if p.secrets[current] == nil {
		return p.fill(ctx, current, a)
	}
	s := p.secrets[current].DeepCopy()
	setMeta(&s.ObjectMeta, a)
	s.Data = data
	updated, err := p.client.CoreV1().Secrets(Namespace).Update(ctx, s, metav1.UpdateOptions{FieldManager: managedBy})
	if err != nil {
		return clusterError("storing the authority in the cluster", "update", "secret "+SecretName, err)
	}
	p.secrets[current] = updated
	return nil
}

// empty makes no backup: keys of authorities that nobody trusts any more would
// pile up where every administrator of the cluster can read them.
func (p *clusterPlace) empty(ctx context.Context, from slot, _ bool) error {
	s := p.secrets[from]
	if s == nil {
		return nil
	}
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}}
	err := p.client.CoreV1().Secrets(Namespace).Delete(ctx, s.Name, options)
	if err != nil && !apierrors.IsNotFound(err) {
		return clusterError("removing an authority from the cluster", "delete", "secret "+s.Name, err)
	}
	p.secrets[from] = nil
	return nil
}
