package main

import (
	"context"
	"time"
)

// A long request tells what it does now, and then, while it works.
const (
	progressEvery = time.Second
	stateProgress = "progress"
)

// long does what takes long. tell is called every second, by one goroutine at a
// time; an error of it ends the work.
func (v *volume) long(ctx context.Context, req *request, tell func(progress any) error) (any, error) {
	if req.Op == opScrub {
		return v.scrub(ctx, req.Rate, tell)
	}
	return v.gc(ctx, req.Wait, tell)
}

// serveLong is long for a client, which ends it by hanging up.
func (s *server) serveLong(c *conn, req *request) (any, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() { // ends with the connection
		c.Read(make([]byte, 1))
		cancel(errClosed)
	}()
	return s.long(ctx, req, func(p any) error {
		return c.send(okReply(stateProgress, p), -1)
	})
}

// telling runs work, and calls tell meanwhile.
func telling(ctx context.Context, tell func() error, work func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	t := time.NewTicker(progressEvery)
	defer t.Stop()
	for {
		select {
		case err := <-done:
			if cause := context.Cause(ctx); err != nil && cause != nil {
				return cause
			}
			return err
		case <-t.C:
		}
		if err := tell(); err != nil {
			cancel(err) // and wait for work to end
		}
	}
}
