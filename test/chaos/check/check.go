// Package check holds what happened in a chaos run against what MeshKit promises.
// It is given what clients did and were answered, the log as it is in the end, and
// what agents activated; each check gives what is wrong, in words, or nothing.
//
//	problems := check.All(ops, log)
//
// The checks are pure: their own tests give them runs in which something is wrong.
package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Outcome is what a client knows of an operation.
type Outcome int

const (
	// Unknown: no answer, or one that says so. A write may be done at any time after
	// its call, or never.
	Unknown Outcome = iota
	// Done: answered. A write is durable.
	Done
	// Refused: the answer says that nothing was done.
	Refused
)

// Op is one read or write of one key by one client.
type Op struct {
	Client int
	// Hub is the hub that was asked.
	Hub   string
	Key   string
	Write bool
	// Linearizable says that a read was asked to see every write that was
	// acknowledged before it; any other read may be of an earlier state.
	Linearizable bool
	Outcome      Outcome
	// Why says what kept it from being done.
	Why string
	// Value is what was written, or read; "" is a key that does not exist. Values are
	// unique in a run.
	Value string
	// Before is what the answer to a write says that was there before; a blind
	// answer does not say.
	Before string
	Blind  bool
	// RequestID names a write in the log.
	RequestID string
	// Seq and Term are where a write was committed, as its answer says; Seq is the
	// version that a read gave, 0 without a resource.
	Seq, Term uint64
	// Call and Return are times since the begin of the run. Return means nothing when
	// the outcome is unknown.
	Call, Return time.Duration
}

func (o Op) String() string {
	what := "reads"
	if o.Write {
		what = "writes"
	}
	out := fmt.Sprintf("client %d at %v–%v %s %s=%q through %s (request %s, seq %d, term %d)",
		o.Client, o.Call.Round(time.Microsecond), o.Return.Round(time.Microsecond), what, o.Key, o.Value, o.Hub, o.RequestID, o.Seq, o.Term)
	if o.Why != "" {
		out += " (" + o.Why + ")"
	}
	return out
}

// Entry is one entry of the log, as far as the checks look at it.
type Entry struct {
	Seq, Term uint64
	RequestID string
	// Hub is the hub whose term begins with this entry, "" in other entries.
	Hub string
	// Key and Value are what was written, if the entry is a write of the run.
	Key, Value string
}

// All is every check of clients and log.
func All(ops []Op, log []Entry) []string {
	return slices.Concat(Terms(log), Writes(ops, log), Order(ops, log), Reads(ops, log), Linearizable(ops, log))
}

// maxProblems bounds what one check tells; the first ones say most.
const maxProblems = 20

type problems []string

func (p *problems) add(format string, args ...any) {
	if len(*p) < maxProblems {
		*p = append(*p, fmt.Sprintf(format, args...))
	}
}

// Terms checks that the log is one sequence in which the terms of leaders follow
// each other: no two overlap in what they committed, and each is of one hub.
func Terms(log []Entry) []string {
	var p problems
	hubs := make(map[uint64]string)
	for i, e := range log {
		if i > 0 && e.Seq != log[i-1].Seq+1 {
			p.add("the log goes from entry %d to entry %d", log[i-1].Seq, e.Seq)
		}
		if i > 0 && e.Term < log[i-1].Term {
			p.add("entry %d of term %d comes after one of term %d: two terms overlap", e.Seq, e.Term, log[i-1].Term)
		}
		if e.Hub == "" {
			continue
		}
		if had := hubs[e.Term]; had != "" && had != e.Hub {
			p.add("term %d is of hub %s and, at entry %d, of hub %s", e.Term, had, e.Seq, e.Hub)
		}
		hubs[e.Term] = e.Hub
	}
	return p
}

// byRequest finds the writes of the log.
func byRequest(log []Entry) map[string][]Entry {
	out := make(map[string][]Entry)
	for _, e := range log {
		if e.RequestID != "" {
			out[e.RequestID] = append(out[e.RequestID], e)
		}
	}
	return out
}

// Writes checks that each acknowledged write is in the log exactly once, where and
// with the content that was told; that each that may have been done is there at most
// once; and that what was refused is not there.
func Writes(ops []Op, log []Entry) []string {
	var p problems
	at := byRequest(log)
	for _, o := range ops {
		if !o.Write {
			continue
		}
		found := at[o.RequestID]
		switch {
		case len(found) > 1:
			p.add("%v is in the log %d times, first at %d and %d", o, len(found), found[0].Seq, found[1].Seq)
		case o.Outcome == Refused && len(found) > 0:
			p.add("%v was refused, and is in the log at %d", o, found[0].Seq)
		case o.Outcome == Done && len(found) == 0:
			p.add("%v was acknowledged and is lost", o)
		case o.Outcome == Done && (found[0].Seq != o.Seq || found[0].Term != o.Term):
			p.add("%v was acknowledged, and is at entry %d of term %d", o, found[0].Seq, found[0].Term)
		}
		if len(found) > 0 && (found[0].Key != o.Key || found[0].Value != o.Value) {
			p.add("%v is in the log as %s=%q", o, found[0].Key, found[0].Value)
		}
	}
	return p
}

// Order checks that the order of the log is that of time: a write that was called
// after another was acknowledged comes after it.
func Order(ops []Op, log []Entry) []string {
	var p problems
	at := byRequest(log)
	type event struct {
		at    time.Duration
		begin bool
		op    Op
		seq   uint64
	}
	var events []event
	for _, o := range ops {
		found := at[o.RequestID]
		if !o.Write || len(found) == 0 {
			continue
		}
		events = append(events, event{o.Call, true, o, found[0].Seq})
		if o.Outcome == Done {
			events = append(events, event{o.Return, false, o, found[0].Seq})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	var newest event
	for _, e := range events {
		if !e.begin {
			if e.seq > newest.seq {
				newest = e
			}
			continue
		}
		if e.seq < newest.seq {
			p.add("%v is at entry %d, before entry %d, which had been acknowledged: %v", e.op, e.seq, newest.seq, newest.op)
		}
	}
	return p
}

// Reads checks what every read promises, also one that may be of an earlier state:
// what it gives was committed as such, not after it was answered, and a client that
// reads from one hub never sees a key go back.
func Reads(ops []Op, log []Entry) []string {
	var p problems
	committed := make(map[uint64]Entry)
	for _, e := range log {
		committed[e.Seq] = e
	}
	called := make(map[string]time.Duration)
	for _, o := range ops {
		if o.Write {
			called[o.RequestID] = o.Call
		}
	}
	type session struct {
		client   int
		hub, key string
	}
	last := make(map[session]Op)
	for _, o := range inOrder(ops) {
		if o.Write || o.Outcome != Done {
			continue
		}
		if o.Seq > 0 {
			e := committed[o.Seq]
			if e.Key != o.Key || e.Value != o.Value {
				p.add("%v, but entry %d holds %s=%q", o, o.Seq, e.Key, e.Value)
			} else if begin, ok := called[e.RequestID]; ok && begin > o.Return {
				p.add("%v before it was written, at %v", o, begin)
			}
		}
		s := session{o.Client, o.Hub, o.Key}
		if before := last[s]; o.Seq < before.Seq {
			p.add("%v, and had read version %d before: it went back", o, before.Seq)
		}
		last[s] = o
	}
	return p
}

// inOrder sorts by the time of the answer.
func inOrder(ops []Op) []Op {
	out := slices.Clone(ops)
	slices.SortStableFunc(out, func(a, b Op) int { return cmp.Compare(a.Return, b.Return) })
	return out
}
