package hub

import (
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/backoff"
)

// A hub that is contradicted at once, for ever, says where it is about once a minute; a
// short agreement in between does not make it begin anew, a long one does.
func TestAHubThatIsContradictedSaysWhereItIsSeldom(t *testing.T) {
	p := movedPace{pause: backoff.New(movedRetry).WithRandom(func() float64 { return 0.5 })}
	now := time.Unix(1_800_000_000, 0)
	hour := func() (said int) {
		for end := now.Add(time.Hour); now.Before(end); {
			p.calm(now) // its word is in the log, and the other's follows
			now = now.Add(p.said(now))
			said++
		}
		return said
	}
	if n := hour(); n < 60 || n > 150 {
		t.Errorf("it said so %d times in the first hour", n)
	}
	if n := hour(); n > 130 {
		t.Errorf("it said so %d times in the second hour", n)
	}
	now = now.Add(movedCalm + 2*movedRetry.Cap)
	p.calm(now)
	if wait := p.said(now); wait > time.Second {
		t.Errorf("after a long calm it waits %s", wait)
	}
}
