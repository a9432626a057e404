package activation

import (
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

// TestAHubThatWithholdsContentCannotKeepTheNodeFresh passes honest statements about
// newer content on, and never the content.
func TestAHubThatWithholdsContentCannotKeepTheNodeFresh(t *testing.T) {
	r := kept(t)
	r.pass(30 * time.Second)
	r.do(Fresh{Point: point(3, 3)})
	r.pass(6 * time.Second)
	r.wantPhase(Stale)
	r.do(offer(point(3, 3)))
	r.do(Fresh{Point: point(3, 3)})
	if got := r.m.Report(r.now).FreshAt; got != r.now {
		t.Fatalf("fresh at %s after the content came, want %s", got, r.now)
	}
}

func TestContentThatWasRefusedOrHeldStillCountsAsConfirmed(t *testing.T) {
	for name, prepare := range map[string]func(*rig){
		"refused by validation": func(r *rig) {
			r.validate[point(3, 3)] = &Reason{Code: fault.CodeContentRefused, Message: "no"}
			r.do(offer(point(3, 3)))
		},
		"held by a pin": func(r *rig) {
			r.do(Pin{Request: 1})
			r.do(offer(point(3, 3)))
		},
		"reverted": func(r *rig) {
			r.activate[point(3, 3)] = &Reason{Code: fault.CodeActivationFailed, Message: "no"}
			r.do(offer(point(3, 3)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := kept(t)
			prepare(r)
			r.pass(30 * time.Second)
			r.do(Fresh{Point: point(4, 3)})
			r.pass(6 * time.Second)
			r.wantPhase(Degraded)
		})
	}
}

func TestAStatementThatContradictsWhatWasTakenBackIsReported(t *testing.T) {
	r := kept(t)
	r.activate[point(3, 3)] = &Reason{Code: fault.CodeActivationFailed, Message: "no"}
	r.do(offer(point(3, 3)))
	r.wantActive(point(2, 2))
	r.do(Fresh{Point: point(3, 9)})
	r.wantNack(fault.CodeEquivocation)
}

// TestWhatCouldNotBeRememberedIsWrittenLater fails the write after a statement moved
// the point, and lets no other event come.
func TestWhatCouldNotBeRememberedIsWrittenLater(t *testing.T) {
	r := kept(t)
	r.do(Fresh{Point: point(5, 2)})
	r.stored.Highest = point(2, 2) // the write failed
	r.do(Remembered{&Reason{Code: fault.CodeLKGWrite, Message: "full"}})
	r.pass(6 * time.Second)
	if r.stored.Highest != point(5, 2) {
		t.Fatalf("stored highest is version %d, want 5", r.stored.Highest.Version)
	}
}

func TestAnOlderGenerationAfterARestartIsDegraded(t *testing.T) {
	r := kept(t)
	r.activate[point(3, 3)] = &Reason{Code: fault.CodeActivationFailed, Message: "no"}
	r.do(offer(point(3, 3)))
	r.pass(time.Second)
	r.restart(testConfig())
	r.pass(11 * time.Second)
	r.wantActive(point(2, 2))
	r.wantPhase(Degraded)
}
