package authority

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Phase is how far the replacement of an authority by its successor has come.
type Phase int

const (
	// Idle means that no rotation is under way.
	Idle Phase = iota
	// Trusting means that the successor exists. It signs nothing before every
	// gateway trusts it.
	Trusting
	// Reissuing means that the successor signs, and that the root of its
	// predecessor is still in the trust bundle.
	Reissuing
	// Dropping means that the predecessor's root is out of the trust bundle, and
	// may still be trusted by gateways.
	Dropping
)

func (p Phase) String() string {
	return [...]string{Idle: "idle", Trusting: "trusting", Reissuing: "reissuing", Dropping: "dropping"}[p]
}

// Rotation is the replacement of a cluster's authority as it stands. What is kept
// says how far it has come, so that whoever opens it again can go on:
//
//	Idle       current                 bundle: its root
//	Trusting   current, next           bundle: both roots, once Publish is done
//	Reissuing  current, previous       bundle: both roots
//	Dropping   current, previous       bundle: the root of current
//
// The authorities are kept on this machine, or in Secrets of the cluster, or in
// both; then the cluster's are what counts, because other operators see them, too.
// Every change is one that a crash leaves undone or done. A Rotation must not be
// used concurrently; other operators may be at it at the same time.
type Rotation struct {
	client kubernetes.Interface
	// places starts with the one that counts; dir is one of them, or nil.
	places []place
	dir    *dirPlace
	states []trio
	// bundle is nil if the cluster has lost it.
	bundle *Bundle
}

// RotationOptions say where OpenRotation looks for the authorities.
type RotationOptions struct {
	LoadOptions
	// Step, if not nil, is called after each change of the file system. An error
	// ends the work there and then: tests interrupt it so.
	Step func(name string) error
}

// OpenRotation looks how far the rotation of a cluster's authority has come, and
// changes nothing. Errors are those of [Load]; [ErrForeign] also means that another
// operator is at a rotation whose authorities are not to be found here.
func OpenRotation(ctx context.Context, o RotationOptions) (*Rotation, error) {
	dir, err := ResolveDir(ctx, o.Client, o.Dir, o.Getenv)
	if err != nil {
		return nil, err
	}
	r := &Rotation{client: o.Client}
	local := &dirPlace{store: store{dir: dir, step: o.Step}}
	for _, p := range []place{&clusterPlace{client: o.Client}, local} {
		state, err := p.read(ctx)
		if errors.Is(err, ErrNoAuthority) || err == nil && state[current] == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		r.places, r.states = append(r.places, p), append(r.states, state)
		if p == place(local) {
			r.dir = local
		}
	}
	if len(r.places) == 0 {
		return nil, noAuthority(ctx, o.Client, dir)
	}
	for i := range r.places[1:] {
		if !r.related(r.states[i+1]) {
			return nil, api.WithHint(fmt.Errorf("%s holds another authority than %s: %w", r.places[i+1], r.places[0], ErrForeign),
				fmt.Sprintf("the cluster's counts: move %s away", r.places[i+1]))
		}
	}
	r.bundle, err = FetchBundle(ctx, o.Client)
	if errors.Is(err, ErrNoBundle) && r.other() != nil {
		return r, nil // the bundle can be made again from what is kept
	}
	if err != nil {
		return nil, err
	}
	return r, r.checkBundle(r.bundle)
}

// related reports whether state is one that the place that counts has been in, or
// is to get to.
func (r *Rotation) related(state trio) bool {
	state = state.plain()
	for _, a := range r.states[0] {
		if a != nil && (a.Equal(state[current]) || a.Equal(state[next])) {
			return true
		}
	}
	return false
}

// checkBundle makes sure that nobody else's root is in the bundle, and that the
// current one's is.
func (r *Rotation) checkBundle(b *Bundle) error {
	if !b.Holds(r.Current()) {
		return fmt.Errorf("the authority of %s (%s) is a foreign one: %w", r.places[0], short(r.Current().Root()), foreignError(b))
	}
	known := []*x509.Certificate{r.Current().Root()}
	if other := r.other(); other != nil {
		known = append(known, other.Root())
	}
	for _, cert := range b.Certificates {
		if slices.ContainsFunc(known, cert.Equal) {
			continue
		}
		err := fmt.Errorf("%w, besides that of %s: configmap %s in %s has %s", ErrForeign, r.places[0], BundleName, Namespace, short(cert))
		if partner := b.partner(r.Current()); partner != nil && partner.Equal(cert) {
			return api.WithHint(err, "another operator has begun a rotation: only they can continue it, "+
				"or whoever gets copies of all their files authority*.pem")
		}
		return api.WithHint(err, fmt.Sprintf("find out who trusts it, then remove it: 'kubectl edit configmap %s -n %s'", BundleName, Namespace))
	}
	return nil
}

// Phase tells how far the rotation has come.
func (r *Rotation) Phase() Phase {
	state := r.states[0].plain()
	switch {
	case state[previous] != nil && (r.bundle == nil || r.bundle.Holds(state[previous])):
		return Reissuing
	case state[previous] != nil:
		return Dropping
	case state[next] != nil:
		return Trusting
	}
	return Idle
}

// Current returns the authority that signs now. Its bundle is its own root alone.
func (r *Rotation) Current() *ca.Authority { return r.states[0][current] }

// Both returns the authority that signs now, with the roots of both authorities
// in its bundle.
func (r *Rotation) Both() *ca.Authority {
	if other := r.other(); other != nil {
		return r.Current().Trusting(other.Root())
	}
	return r.Current()
}

// Other returns the successor in phase Trusting, the predecessor in later phases,
// and nil in phase Idle.
func (r *Rotation) Other() *ca.Authority { return r.other() }

func (r *Rotation) other() *ca.Authority {
	state := r.states[0].plain()
	if state[previous] != nil {
		return state[previous]
	}
	return state[next]
}

// Where names the places where the authorities are kept.
func (r *Rotation) Where() []string {
	var list []string
	for _, p := range r.places {
		list = append(list, p.String())
	}
	return list
}

// CatchUp finishes a change that was interrupted between two places, or leftovers
// of it in one. finished reports whether the only thing that was missing was this
// machine's part of a rotation that is over in the cluster.
func (r *Rotation) CatchUp(ctx context.Context) (finished bool, err error) {
	wanted := r.states[0].plain()
	for i := range r.places {
		before := r.states[i].plain()
		if err := r.moveOne(ctx, i, wanted); err != nil {
			return false, err
		}
		finished = finished || i > 0 && wanted[next] == nil && wanted[previous] == nil && (before[next] != nil || before[previous] != nil)
	}
	return finished, nil
}

// moveAll brings every place to a state, the one that counts first unless last is
// set.
func (r *Rotation) moveAll(ctx context.Context, to trio, last bool) error {
	order := make([]int, len(r.places))
	for i := range order {
		order[i] = i
	}
	if last {
		slices.Reverse(order)
	}
	for _, i := range order {
		if err := r.moveOne(ctx, i, to); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rotation) moveOne(ctx context.Context, i int, to trio) error {
	from := r.states[i]
	if to.same(from) {
		return nil
	}
	// Somebody else may have been here since it was read, on this machine, too.
	now, err := r.places[i].read(ctx)
	if err != nil {
		return err
	}
	if !now.same(from) {
		return api.WithHint(fmt.Errorf("%s: %w", r.places[i], ErrChanged), "run the command again")
	}
	// What is replaced is kept as the previous one, also where that is over.
	if !from[current].Equal(to[current]) && to[previous] == nil {
		kept := to
		kept[previous] = from[current]
		if err := move(ctx, r.places[i], from, kept); err != nil {
			return err
		}
		from = kept
	}
	if err := move(ctx, r.places[i], from, to); err != nil {
		return err
	}
	r.states[i] = to
	return nil
}

// Successor says what authority is to follow.
type Successor struct {
	// CertPEM and KeyPEM are one that exists already (see [ca.Import]); both empty if
	// it is to be made.
	CertPEM, KeyPEM []byte
	// TTL of one that is made; [ca.DefaultTTL] if zero.
	TTL time.Duration
}

// Begin makes the successor and keeps it. It needs phase Idle.
func (r *Rotation) Begin(ctx context.Context, s Successor) error {
	if r.Phase() != Idle {
		return fmt.Errorf("beginning a rotation: one is under way (%s)", r.Phase())
	}
	o := InitOptions{TrustDomain: r.Current().TrustDomain(), TTL: s.TTL, CertPEM: s.CertPEM, KeyPEM: s.KeyPEM, Store: StoreLocal}
	if err := o.validate(); err != nil {
		return err
	}
	a, err := o.mint()
	if err != nil {
		return err
	}
	switch {
	case a.Equal(r.Current()):
		return api.WithHint(fmt.Errorf("%w, and it is the one that was given to follow it", ErrExists), "there is nothing to do")
	case a.Root().Equal(r.Current().Root()):
		return api.WithHint(errors.New("the authority to follow has the same root as the current one, so gateways trust it already"),
			"use it with 'kubectl gateway init-ca --force', then 'kubectl gateway rotate --all -A'")
	}
	return r.moveAll(ctx, trio{current: r.Current(), next: a}, false)
}

// Publish puts both roots into the trust bundle, so that gateways which are
// enabled from now on trust both. It needs phase Trusting or Reissuing.
func (r *Rotation) Publish(ctx context.Context) error {
	state := r.states[0].plain()
	old, successor := state[current], state[next]
	if state[previous] != nil {
		old, successor = state[previous], state[current]
	}
	if old == nil || successor == nil || r.Phase() == Dropping {
		return fmt.Errorf("publishing two roots: the rotation is %s", r.Phase())
	}
	e, err := ca.Endorse(old, successor)
	if err != nil {
		return err
	}
	return r.publish(ctx, r.Both(), e)
}

// Switch makes the successor the current authority. It needs phase Trusting, and
// that every gateway trusts the successor.
func (r *Rotation) Switch(ctx context.Context) error {
	state := r.states[0].plain()
	if r.Phase() != Trusting || r.bundle == nil || !r.bundle.Holds(state[next]) {
		return fmt.Errorf("switching to the next authority: the rotation is %s, or its root is not published", r.Phase())
	}
	return r.moveAll(ctx, trio{current: state[next], previous: state[current]}, false)
}

// Drop takes the predecessor's root out of the trust bundle. It needs phase
// Reissuing, and that no gateway uses a certificate of the predecessor.
func (r *Rotation) Drop(ctx context.Context) error {
	if r.Phase() != Reissuing {
		return fmt.Errorf("dropping the old root: the rotation is %s", r.Phase())
	}
	return r.publish(ctx, r.Current(), nil)
}

// Finish ends the rotation, and returns the path of the predecessor's backup, ""
// if there is none on this machine. It needs phase Dropping, and that no gateway
// trusts the predecessor.
func (r *Rotation) Finish(ctx context.Context) (backup string, err error) {
	if r.Phase() != Dropping {
		return "", fmt.Errorf("finishing: the rotation is %s", r.Phase())
	}
	// The place that counts comes last: until then the rotation is not over, and
	// opening it again leads here.
	err = r.moveAll(ctx, trio{current: r.Current(), next: r.states[0].plain()[next]}, true)
	return r.Backup(), err
}

// Backup returns the path of the file that the last authority that was put away
// on this machine is in now, or "".
func (r *Rotation) Backup() string {
	if r.dir == nil {
		return ""
	}
	return r.dir.backup
}

// publish makes a's bundle that of the cluster. The error is ErrForeign if the
// bundle has become somebody else's, and ErrChanged if that happens just now.
func (r *Rotation) publish(ctx context.Context, a *ca.Authority, e *ca.Endorsement) error {
	configMaps := r.client.CoreV1().ConfigMaps(Namespace)
	m, err := configMaps.Get(ctx, BundleName, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return clusterError("reading the trust bundle", "get", "configmap "+BundleName, err)
	}
	if missing {
		m = &corev1.ConfigMap{ObjectMeta: objectMeta(BundleName, a)}
	} else {
		bundle, err := readBundle(m)
		if err != nil {
			return err
		}
		if err := r.checkBundle(bundle); err != nil {
			return err
		}
		if bundle.states(a, e) {
			r.bundle = bundle
			return nil
		}
	}
	m = m.DeepCopy()
	setMeta(&m.ObjectMeta, a)
	delete(m.Annotations, RotationAnnotation)
	if e != nil {
		text, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encoding the rotation's signatures: %w", err)
		}
		m.Annotations[RotationAnnotation] = string(text)
	}
	m.Data, m.BinaryData = map[string]string{BundleKey: string(a.Bundle())}, nil
	verb := "update"
	if missing {
		verb = "create"
		m, err = configMaps.Create(ctx, m, metav1.CreateOptions{FieldManager: managedBy})
	} else {
		// The resource version of what was read makes the server refuse the
		// update if somebody else came first.
		m, err = configMaps.Update(ctx, m, metav1.UpdateOptions{FieldManager: managedBy})
	}
	if err != nil {
		return clusterError("publishing the trust bundle", verb, "configmap "+BundleName, err)
	}
	r.bundle, err = readBundle(m)
	return err
}

// states reports whether b says what publishing a and e would make it say.
func (b *Bundle) states(a *ca.Authority, e *ca.Endorsement) bool {
	var roots []string
	for _, cert := range b.Certificates {
		roots = append(roots, ca.Fingerprint(cert))
	}
	want := a.Roots()
	slices.Sort(roots)
	slices.Sort(want)
	if !slices.Equal(roots, want) || b.TrustDomain != a.TrustDomain() {
		return false
	}
	if e == nil {
		return b.rotation == nil
	}
	return b.rotation != nil && b.rotation.Old == e.Old && b.rotation.New == e.New && b.partner(a) != nil
}

// Follows fails if s is given, and not the successor in the rotation that is under
// way. One that was to be made is the one that was.
func (r *Rotation) Follows(s Successor) error {
	if len(s.CertPEM) == 0 {
		return nil
	}
	a, err := ca.Import(s.CertPEM, s.KeyPEM, r.Current().TrustDomain())
	if err != nil {
		return fmt.Errorf("importing the authority: %w", err)
	}
	successor := r.Current()
	if r.Phase() == Trusting {
		successor = r.other()
	}
	if a.Equal(successor) {
		return nil
	}
	return api.WithHint(fmt.Errorf("%w: a rotation to authority %s is under way", ErrExists, short(successor.Root())),
		"leave out --from-cert and --from-key to finish it first")
}
