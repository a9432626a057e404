package backoff

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestWaitsStayWithinPolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{
			Base: time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(t, "base")),
			Cap:  time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "cap")),
		}
		b := New(p).WithRandom(func() float64 { return rapid.Float64Range(0, 0.999999).Draw(t, "r") })
		for range 20 {
			d := b.Next()
			if d < p.Base || d > max(p.Cap, p.Base) {
				t.Fatalf("wait %v outside [%v, %v]", d, p.Base, max(p.Cap, p.Base))
			}
		}
	})
}

func TestWaitsGrowToTheCapAndResetShrinksThem(t *testing.T) {
	b := New(Policy{Base: time.Second, Cap: 30 * time.Second}).WithRandom(func() float64 { return 0.99 })
	first := b.Next()
	var last time.Duration
	for range 10 {
		last = b.Next()
	}
	if last != 30*time.Second {
		t.Fatalf("after 11 attempts the wait is %v, want the cap", last)
	}
	b.Reset()
	if again := b.Next(); again != first {
		t.Fatalf("after Reset the wait is %v, want %v again", again, first)
	}
}

func TestSleepEndsWithTheCauseOfItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("lost the lease")
		ctx, cancel := context.WithCancelCause(t.Context())
		go cancel(cause)
		start := time.Now()
		if err := Sleep(ctx, time.Hour); !errors.Is(err, cause) {
			t.Fatalf("got %v, want the cause", err)
		}
		if time.Since(start) != 0 {
			t.Fatal("slept on after the context ended")
		}
	})
}
