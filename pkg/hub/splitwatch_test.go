package hub

import "testing"

func TestASplitIsToldFromAFailover(t *testing.T) {
	listed := func(hub string) bool { return hub != "dropped" }
	says := func(hub string, term uint64) []claim { return []claim{{hub: hub, term: term}} }
	look := func(claims []claim, term uint64, holder string) splitLook {
		return splitLook{claims: claims, known: true, term: term, holder: holder, listed: listed}
	}
	dead := splitLook{listed: listed} // the store does not answer
	for name, c := range map[string]struct {
		looks []splitLook
		want  []bool
	}{
		"another hub leads on this store": {[]splitLook{look(says("b", 7), 7, "b"), look(says("b", 7), 7, "b")}, []bool{false, false}},
		"a lower term elsewhere":          {[]splitLook{look(says("b", 5), 7, "a"), look(says("b", 5), 7, "a")}, []bool{false, false}},
		"a higher term elsewhere":         {[]splitLook{look(says("b", 9), 7, "a"), look(says("b", 9), 7, "a")}, []bool{false, true}},
		"heard once":                      {[]splitLook{look(says("b", 9), 7, "a"), look(nil, 7, "a"), look(says("b", 9), 7, "a")}, []bool{false, false, false}},
		"the store caught up in between":  {[]splitLook{look(says("b", 9), 7, "a"), look(says("b", 9), 9, "b")}, []bool{false, false}},
		"the other does not answer any more": {
			[]splitLook{look(says("b", 9), 7, "a"), look(says("b", 9), 7, "a"), look(nil, 7, ""), dead}, []bool{false, true, true, true},
		},
		"this store has the term in the end": {
			[]splitLook{look(says("b", 9), 7, "a"), look(says("b", 9), 7, "a"), look(nil, 10, "c")}, []bool{false, true, false},
		},
		"the other leads here in the end": {
			[]splitLook{look(says("b", 9), 7, "a"), look(says("b", 9), 7, "a"), look(says("b", 8), 8, "b")}, []bool{false, true, false},
		},
		"the store does not answer": {[]splitLook{{claims: says("b", 9), listed: listed}, {claims: says("b", 9), listed: listed}}, []bool{false, false}},
	} {
		var w splitWatch
		for i, l := range c.looks {
			if got := w.step(l); got != c.want[i] {
				t.Errorf("%s: look %d says split %v", name, i+1, got)
			}
		}
	}
	w := splitWatch{claim: claim{hub: "dropped", term: 9}, looks: splitLooks}
	if w.step(dead) {
		t.Error("a hub that was dropped splits the ring")
	}
}
