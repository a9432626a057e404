package check

import (
	"strings"
	"testing"
	"time"
)

// run is a short run in which all is well: two clients write one key, one write has
// no answer and was done, one was refused, and a third client reads.
func run() (ops []Op, log []Entry) {
	log = []Entry{
		{Seq: 1, Term: 1, Hub: "hub1"},
		{Seq: 2, Term: 1, RequestID: "a", Key: "k", Value: "1"},
		{Seq: 3, Term: 1, RequestID: "b", Key: "k", Value: "2"},
		{Seq: 4, Term: 3, Hub: "hub2"},
		{Seq: 5, Term: 3, RequestID: "c", Key: "k", Value: "3"},
	}
	const ms = time.Millisecond
	ops = []Op{
		{Client: 1, Hub: "hub1", Key: "k", Write: true, Outcome: Done, Value: "1", RequestID: "a", Seq: 2, Term: 1, Call: 1 * ms, Return: 3 * ms},
		{Client: 2, Hub: "hub1", Key: "k", Write: true, Outcome: Unknown, Value: "2", RequestID: "b", Call: 2 * ms},
		{Client: 1, Hub: "hub2", Key: "k", Write: true, Outcome: Done, Value: "3", Before: "2", RequestID: "c", Seq: 5, Term: 3, Call: 6 * ms, Return: 9 * ms},
		{Client: 2, Hub: "hub3", Key: "k", Write: true, Outcome: Refused, Value: "4", RequestID: "d", Call: 7 * ms, Return: 8 * ms},
		{Client: 3, Hub: "hub3", Key: "k", Outcome: Done, Value: "1", Seq: 2, Call: 7 * ms, Return: 8 * ms},
		{Client: 3, Hub: "hub2", Key: "k", Outcome: Done, Value: "3", Seq: 5, Call: 10 * ms, Return: 11 * ms, Linearizable: true},
	}
	return ops, log
}

func TestAGoodRunHasNoProblems(t *testing.T) {
	if got := All(run()); len(got) > 0 {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

// TestWhatIsWrongIsFound breaks the good run in one way each, and wants the check
// that is for it to say so.
func TestWhatIsWrongIsFound(t *testing.T) {
	tests := map[string]struct {
		spoil func(ops *[]Op, log *[]Entry)
		check func(ops []Op, log []Entry) []string
		want  string
	}{
		"an acknowledged write is lost": {
			func(_ *[]Op, log *[]Entry) { (*log)[1] = Entry{Seq: 2, Term: 1} }, Writes, "acknowledged and is lost",
		},
		"a write is done twice": {
			func(_ *[]Op, log *[]Entry) {
				*log = append(*log, Entry{Seq: 6, Term: 3, RequestID: "a", Key: "k", Value: "1"})
			}, Writes, "in the log 2 times",
		},
		"an unanswered write is done twice": {
			func(_ *[]Op, log *[]Entry) {
				*log = append(*log, Entry{Seq: 6, Term: 3, RequestID: "b", Key: "k", Value: "2"})
			}, Writes, "in the log 2 times",
		},
		"a write is elsewhere than was told": {
			func(ops *[]Op, _ *[]Entry) { (*ops)[0].Seq = 3 }, Writes, "is at entry 2",
		},
		"a write is of another term than was told": {
			func(ops *[]Op, _ *[]Entry) { (*ops)[0].Term = 2 }, Writes, "of term 1",
		},
		"a write has other content": {
			func(_ *[]Op, log *[]Entry) { (*log)[1].Value = "x" }, Writes, `in the log as k="x"`,
		},
		"a refused write was done": {
			func(_ *[]Op, log *[]Entry) {
				*log = append(*log, Entry{Seq: 6, Term: 3, RequestID: "d", Key: "k", Value: "4"})
			}, Writes, "was refused, and is in the log",
		},
		"two terms overlap": {
			func(_ *[]Op, log *[]Entry) { *log = append(*log, Entry{Seq: 6, Term: 1}) }, func(_ []Op, log []Entry) []string { return Terms(log) }, "two terms overlap",
		},
		"a term has two leaders": {
			func(_ *[]Op, log *[]Entry) { *log = append(*log, Entry{Seq: 6, Term: 3, Hub: "hub1"}) }, func(_ []Op, log []Entry) []string { return Terms(log) }, "term 3 is of hub hub2",
		},
		"an entry is missing": {
			func(_ *[]Op, log *[]Entry) { *log = append((*log)[:2:2], (*log)[3:]...) }, func(_ []Op, log []Entry) []string { return Terms(log) }, "goes from entry 2 to entry 4",
		},
		"a later write is before an earlier one": {
			func(ops *[]Op, _ *[]Entry) {
				(*ops)[2].Call, (*ops)[2].Return = 0, time.Microsecond
			}, Order, "before entry 5, which had been acknowledged",
		},
		"a read gives what nobody wrote": {
			func(ops *[]Op, _ *[]Entry) { (*ops)[4].Value = "ghost" }, Reads, "but entry 2 holds",
		},
		"a read sees the future": {
			func(ops *[]Op, _ *[]Entry) { (*ops)[5].Return = 5 * time.Millisecond }, Reads, "before it was written",
		},
		"a hub goes back": {
			func(ops *[]Op, _ *[]Entry) { (*ops)[4].Hub, (*ops)[4].Return = "hub2", time.Hour }, Reads, "it went back",
		},
		"a linearizable read is stale": {
			func(ops *[]Op, _ *[]Entry) { (*ops)[5].Value, (*ops)[5].Seq = "2", 3 }, Linearizable, "no linearizable order",
		},
		"a write did not see the one before": {
			func(ops *[]Op, _ *[]Entry) { (*ops)[2].Before = "1" }, Linearizable, "no linearizable order",
		},
		"an unanswered write that was not done is seen": {
			func(_ *[]Op, log *[]Entry) { (*log)[2] = Entry{Seq: 3, Term: 1} }, Linearizable, "no linearizable order",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ops, log := run()
			tt.spoil(&ops, &log)
			if got := strings.Join(tt.check(ops, log), "\n"); !strings.Contains(got, tt.want) {
				t.Errorf("the check says %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAStaleReadThatAskedForNoMoreIsRight(t *testing.T) {
	ops, log := run()
	ops[5].Value, ops[5].Seq, ops[5].Linearizable = "2", 3, false
	if got := All(ops, log); len(got) > 0 {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

func TestAnAgentThatGoesBackIsFound(t *testing.T) {
	good := []Activation{
		{Node: "a", Epoch: 1, Version: 7}, {Node: "b", Epoch: 1, Version: 3}, {Node: "a", Epoch: 2, Version: 5},
		{Node: "a", Epoch: 2, Version: 5, Start: 1}, {Node: "a", Epoch: 2, Version: 9, Start: 1},
	}
	if got := Agents(good); len(got) > 0 {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	for name, tt := range map[string]struct {
		next Activation
		want string
	}{
		"version":        {Activation{Node: "a", Epoch: 2, Version: 8, Start: 1}, "a went back from epoch 2 version 9 to epoch 2 version 8"},
		"epoch":          {Activation{Node: "b", Epoch: 0, Version: 99}, "b went back"},
		"at its start":   {Activation{Node: "a", Epoch: 2, Version: 5, Start: 2}, "a went back"},
		"the same again": {Activation{Node: "a", Epoch: 2, Version: 9, Start: 1}, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(Agents(append(good[:len(good):len(good)], tt.next)), "\n"); !strings.Contains(got, tt.want) {
				t.Errorf("the check says %q, want %q", got, tt.want)
			}
		})
	}
}
