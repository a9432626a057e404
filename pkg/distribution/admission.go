package distribution

import (
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshkit/meshkit/pkg/backoff"
)

const (
	minRetry = 500 * time.Millisecond
	maxRetry = time.Minute
)

// admission lets streams open at a bounded rate. Whoever is refused gets a slot in
// the future, one after the other at that same rate, so that those who come back
// when they are told to find room, however many they are.
type admission struct {
	limiter *rate.Limiter
	slot    time.Duration

	mu      sync.Mutex // guards horizon
	horizon time.Time  // last slot given away
}

func newAdmission(perSecond float64, burst int) *admission {
	return &admission{limiter: rate.NewLimiter(rate.Limit(perSecond), burst), slot: time.Duration(float64(time.Second) / perSecond)}
}

// admit says whether a stream may open at now and, if not, how long to wait.
func (a *admission) admit(now time.Time) (retry time.Duration, ok bool) {
	if a.limiter.AllowN(now, 1) {
		return 0, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if earliest := now.Add(minRetry); a.horizon.Before(earliest) {
		a.horizon = earliest
	}
	a.horizon = a.horizon.Add(a.slot)
	wait := a.horizon.Sub(now)
	if wait > maxRetry {
		a.horizon = now.Add(maxRetry)
		return maxRetry/2 + rand.N(maxRetry/2), false
	}
	return backoff.Jitter(wait, 0.05), false
}
