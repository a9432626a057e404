package distribution

import (
	"testing"
	"time"
)

func TestANodeThatReconnectsAfterAWhileIsAdmitted(t *testing.T) {
	p := newPacing(maxNodeStreams, nodeBurst)
	now := time.Now()
	for range nodeBurst {
		if _, ok := p.admit("n1", now); !ok {
			t.Fatal("refused within its burst")
		}
		p.leave("n1")
	}
	if wait, ok := p.admit("n1", now); ok || wait <= 0 {
		t.Fatalf("admitted beyond its burst (%s)", wait)
	}
	if _, ok := p.admit("n1", now.Add(time.Minute)); !ok {
		t.Fatal("refused a minute later")
	}
	// What is not needed is forgotten.
	for i := range 3 * pacingSweep {
		name := string(rune('a'+i%26)) + time.Duration(i).String()
		at := now.Add(time.Duration(i) * time.Second)
		p.admit(name, at)
		p.leave(name)
	}
	if n := len(p.nodes); n > 2*pacingSweep {
		t.Errorf("%d nodes remembered", n)
	}
}
