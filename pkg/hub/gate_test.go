package hub

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestThoseWhoCameFirstPassFirstAndTheSlowHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, time.Second)
		begin := time.Now()
		pass := func() func() {
			leave, err := g.pass(t.Context())
			if err != nil {
				t.Error(err)
			}
			return leave
		}
		pass() // and never leaves
		var order []int
		for i := range 3 {
			go func() {
				leave := pass()
				order = append(order, i)
				leave()
				leave() // gives back one place
			}()
			synctest.Wait()
		}
		if len(order) > 0 {
			t.Fatalf("%v passed a full gate", order)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		if _, err := g.pass(ctx); !errors.Is(err, gone) {
			t.Errorf("whoever left is told %v", err)
		}
		time.Sleep(time.Second + 1) // of the bubble's clock
		synctest.Wait()
		if len(order) != 3 || order[0] != 0 || order[2] != 2 || time.Since(begin) > 2*time.Second {
			t.Errorf("after the turn of the slow %v passed, want 0, 1, 2", order)
		}
	})
}
