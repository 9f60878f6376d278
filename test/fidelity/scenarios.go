//go:build linux

package fidelity

import (
	"fmt"
	"slices"
	"sync"
)

// Scenario is a play for two pods.
type Scenario struct {
	Name string
	// cut means that the scenario calls [play.cut] and [play.mend], once.
	cut  bool
	play func(*play)
}

// portsPerScenario is how many ports each scenario has to itself, from firstPort on.
const (
	firstPort        = 20000
	portsPerScenario = 10
)

// Scenarios returns all of them. Their names differ.
func Scenarios() []Scenario {
	return slices.Concat(connecting(), bound(), waiting(), closing(), resetting(), carrying(), watching(), urgent(), onTheWire())
}

// Stage is what scenarios are played on. The server's pod may have a gateway or not.
type Stage struct {
	Client, Server *Host
	Places         Places
	// Cut drops all packets between the pods, and Mend no longer does.
	Cut, Mend func()
	// Only says which scenarios are played; nil are all.
	Only func(name string) bool
	// again is how often they were played before, so that they are on ports of their own.
	again int
}

// Again returns the stage for playing some scenarios once more.
func (s *Stage) Again(names []string) *Stage {
	next := *s
	next.again++
	next.Only = func(name string) bool { return slices.Contains(names, name) }
	return &next
}

// port returns the first one of the scenario with index i.
func (s *Stage) port(i int) uint16 {
	return uint16(firstPort + (s.again*len(Scenarios())+i)*portsPerScenario)
}

// scenarios returns those that are played.
func (s *Stage) scenarios() []Scenario {
	all := Scenarios()
	if s.Only != nil {
		all = slices.DeleteFunc(all, func(each Scenario) bool { return !s.Only(each.Name) })
	}
	return all
}

// Ports returns those of the server that clients connect to: the first two of each scenario that is played.
func (s *Stage) Ports() (all []uint16) {
	for i := range s.scenarios() {
		all = append(all, s.port(i), s.port(i)+1)
	}
	return all
}

// atATime is how many scenarios are played at a time. Most of them wait most of the time.
const atATime = 50

// Transcripts plays all scenarios and returns the transcripts by name: first those that cut the
// connection between the pods, at the same time, then the others.
func (s *Stage) Transcripts() map[string][]string {
	found := make(map[string][]string)
	var mu sync.Mutex
	all := s.scenarios()
	for _, cutting := range []bool{true, false} {
		var group sync.WaitGroup
		var members int
		for _, each := range all {
			if each.cut == cutting {
				members++
			}
		}
		places := make(chan struct{}, atATime)
		cut, mend := newBarrier(members, s.Cut), newBarrier(members, s.Mend)
		for i, each := range all {
			if each.cut != cutting {
				continue
			}
			p := &play{client: s.Client, server: s.Server, places: s.Places, port: s.port(i), cut: cut, mend: mend}
			group.Go(func() {
				if !each.cut {
					places <- struct{}{}
					defer func() { <-places }()
				}
				each.play(p)
				p.end()
				mu.Lock()
				defer mu.Unlock()
				found[each.Name] = p.transcript
			})
		}
		group.Wait()
	}
	return found
}

// newBarrier returns a function that blocks until n have called it and do has run.
func newBarrier(n int, do func()) func() {
	var mu sync.Mutex
	done := make(chan struct{})
	return func() {
		mu.Lock()
		if n--; n == 0 {
			do()
			close(done)
		}
		mu.Unlock()
		<-done
	}
}

// forFamilies makes a scenario for each family.
func forFamilies(name string, f func(*play, family)) (all []Scenario) {
	for _, each := range families() {
		all = append(all, Scenario{Name: fmt.Sprintf("%s, %s", name, each), play: func(p *play) { f(p, each) }})
	}
	return all
}

// fromBothEnds makes two scenarios of what happens between a socket that acts and the one that it is
// connected to: the client acts, and the server acts.
func fromBothEnds(name string, f func(p *play, actor, other *socket)) []Scenario {
	return []Scenario{
		{Name: name + ", by the client", play: func(p *play) {
			c, s := p.pair(ip4)
			f(p, c, s)
		}},
		{Name: name + ", by the server", play: func(p *play) {
			c, s := p.pair(ip4)
			f(p, s, c)
		}},
	}
}
