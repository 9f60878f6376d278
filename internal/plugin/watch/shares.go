package watch

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

// reserve is how many workers there are besides those that pods of one namespace may keep busy: who may annotate pods whose
// gateways never become ready is not to hold up the certificates of other namespaces.
func reserve(parallel int) int { return parallel / 4 }

// shares are the workers that each namespace keeps busy. The zero value is none.
type shares struct {
	mu   sync.Mutex
	busy map[string]int
	// parked are pods whose namespace has its share.
	parked map[string]sets.Set[types.NamespacedName]
}

// enter reports whether a worker may work on key, where most is the share of a namespace. If not, a call of leave
// returns it.
func (s *shares) enter(key types.NamespacedName, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy == nil {
		s.busy, s.parked = map[string]int{}, map[string]sets.Set[types.NamespacedName]{}
	}
	if s.busy[key.Namespace] < most {
		s.busy[key.Namespace]++
		return true
	}
	if s.parked[key.Namespace] == nil {
		s.parked[key.Namespace] = sets.New[types.NamespacedName]()
	}
	s.parked[key.Namespace].Insert(key)
	return false
}

// waiting returns how many pods wait for a worker of their namespace.
func (s *shares) waiting() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, keys := range s.parked {
		n += len(keys)
	}
	return n
}

// leave ends what enter has allowed in a namespace, and returns what may be worked on instead, if ok.
func (s *shares) leave(namespace string) (next types.NamespacedName, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[namespace]--; s.busy[namespace] == 0 {
		delete(s.busy, namespace)
	}
	next, ok = s.parked[namespace].PopAny()
	if len(s.parked[namespace]) == 0 {
		delete(s.parked, namespace)
	}
	return next, ok
}
