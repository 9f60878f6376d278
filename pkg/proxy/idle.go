//go:build linux

package proxy

import (
	"container/list"
	"slices"
	"time"
)

// idleSet holds idle carriers, in all and by peer, up to bounds. It is not safe for concurrent use.
type idleSet struct {
	total, perPeer int
	// order has the one that has been idle for longest at the front.
	order list.List
	peers map[route][]*carrier
}

func newIdleSet(total, perPeer int) *idleSet {
	return &idleSet{total: total, perPeer: perPeer, peers: make(map[route][]*carrier)}
}

// add holds k and returns those that must go instead: k itself if nothing may be held.
func (s *idleSet) add(k *carrier, now time.Time) (surplus []*carrier) {
	k.idleSince = now
	k.place = s.order.PushBack(k)
	s.peers[k.route] = append(s.peers[k.route], k)
	if own := s.peers[k.route]; len(own) > s.perPeer {
		surplus = append(surplus, own[0])
		s.remove(own[0])
	}
	return append(surplus, s.shrink()...)
}

// shrink removes what is above the bound, and returns it.
func (s *idleSet) shrink() (surplus []*carrier) {
	for s.order.Len() > s.total {
		oldest := s.order.Front().Value.(*carrier)
		s.remove(oldest)
		surplus = append(surplus, oldest)
	}
	return surplus
}

// latest removes the carrier to peer that has been idle for the shortest time, and returns it, or nil.
func (s *idleSet) latest(peer route) *carrier {
	own := s.peers[peer]
	if len(own) == 0 {
		return nil
	}
	k := own[len(own)-1]
	s.remove(k)
	return k
}

// remove reports whether k was held.
func (s *idleSet) remove(k *carrier) bool {
	if k.place == nil {
		return false
	}
	s.order.Remove(k.place)
	k.place = nil
	own := s.peers[k.route]
	// The last one is asked for most often.
	at := len(own) - 1
	for own[at] != k {
		at--
	}
	if own = slices.Delete(own, at, at+1); len(own) == 0 {
		delete(s.peers, k.route)
	} else {
		s.peers[k.route] = own
	}
	return true
}

// before removes those that have been idle since before t, and returns them.
func (s *idleSet) before(t time.Time) (old []*carrier) {
	for e := s.order.Front(); e != nil; e = s.order.Front() {
		k := e.Value.(*carrier)
		if !k.idleSince.Before(t) {
			break
		}
		s.remove(k)
		old = append(old, k)
	}
	return old
}

// since returns those that have been idle since before t.
func (s *idleSet) since(t time.Time) (old []*carrier) {
	for e := s.order.Front(); e != nil; e = e.Next() {
		k := e.Value.(*carrier)
		if !k.idleSince.Before(t) {
			break
		}
		old = append(old, k)
	}
	return old
}

// of removes those to peer, and returns them.
func (s *idleSet) of(peer route) (all []*carrier) {
	for k := s.latest(peer); k != nil; k = s.latest(peer) {
		all = append(all, k)
	}
	return all
}

// clear removes all, and returns them.
func (s *idleSet) clear() (all []*carrier) {
	for e := s.order.Front(); e != nil; e = s.order.Front() {
		k := e.Value.(*carrier)
		s.remove(k)
		all = append(all, k)
	}
	return all
}
