package agent

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestACertificateThatIsDueAtOnceIsNotRenewedWithoutPause: a clock that is a day ahead
// finds every new certificate past its half-life.
func TestACertificateThatIsDueAtOnceIsNotRenewedWithoutPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		renewals := 0
		end := start.Add(time.Hour)
		renewing(t.Context(), func(now time.Time) time.Time { return now }, func() bool {
			renewals++
			return time.Now().Before(end)
		})
		if renewals > 60 {
			t.Errorf("%d renewals in an hour", renewals)
		}
	})
}

func TestACertificateIsRenewedWhenItIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		renewing(t.Context(), func(now time.Time) time.Time { return now.Add(12 * time.Hour) }, func() bool {
			at = append(at, time.Since(start))
			return len(at) < 3
		})
		for i, d := range at {
			if want := time.Duration(i+1) * 12 * time.Hour; d != want {
				t.Errorf("renewal %d after %s, want %s", i+1, d, want)
			}
		}
	})
}
