package run

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestOnePartEndingEndsTheOthers(t *testing.T) {
	g := New(t.Context())
	boom := errors.New("boom")
	g.Go("first", func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
	g.Go("second", func(context.Context) error { return boom })
	err := g.Wait()
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "second: boom") {
		t.Fatalf("got %v, want the error of the second part, named", err)
	}
	if strings.Contains(err.Error(), "first") {
		t.Fatalf("%v blames a part that only followed", err)
	}
}

func TestStopIsNotAnError(t *testing.T) {
	g := New(t.Context())
	g.Go("part", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	g.Stop()
	if err := g.Wait(); err != nil {
		t.Fatalf("got %v after Stop", err)
	}
}

func TestAFailureDuringShutdownIsReported(t *testing.T) {
	g := New(t.Context())
	boom := errors.New("flush failed")
	g.Go("part", func(ctx context.Context) error { <-ctx.Done(); return boom })
	g.Stop()
	if err := g.Wait(); !errors.Is(err, boom) {
		t.Fatalf("got %v, want the failure that happened while stopping", err)
	}
}
