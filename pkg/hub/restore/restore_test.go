package restore

import (
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/backup"
)

func TestLaterChangesAreFound(t *testing.T) {
	var e Evidence
	var v backup.Verified
	v.Head.Seq, v.Head.Term = 100, 7
	e.add(v, "same", 100, 7)
	e.add(v, "older", 40, 3)
	if len(e.Says) > 0 {
		t.Errorf("found %q", e.Says)
	}
	e.add(v, "longer", 101, 7)
	e.add(v, "of a later term", 90, 9)
	if e.seq != 101 || e.term != 9 || !strings.Contains(strings.Join(e.Says, "; "), "longer: entry 101 of term 7") {
		t.Errorf("found %d, %d, %q", e.seq, e.term, e.Says)
	}
	if _, err := e.Plan(v, 9, true); err == nil {
		t.Error("a term floor that was seen is taken")
	}
}
