// Package backoff computes waits between retries: decorrelated jitter (Brooker,
// "Exponential Backoff And Jitter", AWS 2015), so that clients which failed
// together do not come back together.
//
// A Policy is a value; a Backoff belongs to one goroutine.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Policy bounds the waits. Each wait lies in [Base, Cap].
type Policy struct {
	Base time.Duration
	Cap  time.Duration
}

// Backoff yields the waits of one retry loop.
type Backoff struct {
	policy Policy
	prev   time.Duration
	random func() float64
}

// New starts a loop under p. A Base of 0 becomes 100 ms; a Cap below Base
// becomes Base.
func New(p Policy) *Backoff {
	if p.Base <= 0 {
		p.Base = 100 * time.Millisecond
	}
	p.Cap = max(p.Cap, p.Base)
	return &Backoff{policy: p, random: rand.Float64}
}

// WithRandom replaces the source of randomness (values in [0,1)), for tests.
func (b *Backoff) WithRandom(f func() float64) *Backoff {
	b.random = f
	return b
}

// Next gives the wait before the next attempt: uniform in [Base, 3 × previous),
// capped.
func (b *Backoff) Next() time.Duration {
	prev := max(b.prev, b.policy.Base)
	span := float64(3*prev - b.policy.Base)
	b.prev = min(b.policy.Base+time.Duration(b.random()*span), b.policy.Cap)
	return b.prev
}

// Reset forgets the attempts so far; call it after a success.
func (b *Backoff) Reset() { b.prev = 0 }

// Set replaces the policy, as when a server sends a hint.
func (b *Backoff) Set(p Policy) { b.policy = New(p).policy }

// Wait sleeps for Next or until ctx ends, and then returns ctx's cause.
func (b *Backoff) Wait(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Sleep waits d or until ctx ends, and then returns ctx's cause.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// Jitter spreads d uniformly over [d×(1−f), d×(1+f)], for timers that many
// processes share.
func Jitter(d time.Duration, f float64) time.Duration {
	return time.Duration(float64(d) * (1 - f + 2*f*rand.Float64()))
}
