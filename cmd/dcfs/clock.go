package main

import (
	"context"
	"fmt"
	"time"

	"dcfs/fs"
	"dcfs/snap"
)

// startClock has the volume do what time asks of it for as long as it is served.
func (s *server) startClock() {
	ctx, cancel := context.WithCancel(context.Background())
	s.clock = s.vol.NewClock(snap.ClockHooks{Flush: fs.Flush, Gone: fs.Gone, Claim: s.claim})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.clock.Run(ctx)
	}()
	s.endClock = func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(lingerTimeout): // a mount that is dead does not answer
		}
	}
}

// claim keeps a fork from being mounted until let is called, or says by what it
// is in use.
func (s *server) claim(w *snap.View) (let func(), err error) {
	forks := []*snap.View{w}
	if m := s.hold(forks); m != nil {
		return nil, fmt.Errorf("it is mounted at %s", m.mountpoint)
	}
	if fs.Served(w) {
		s.unhold(forks)
		return nil, fmt.Errorf("it is in use by way of another mount's forks")
	}
	return func() { s.unhold(forks) }, nil
}
