package check

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// searchTime bounds the search for an order of one key's operations.
const searchTime = time.Minute

// version is what a key holds, and since which entry of the log.
type version struct {
	seq   uint64
	value string
}

// register is one key: a write gives back what was there before, and is where the log
// has it; a read gives what is there.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		keys := make(map[string][]porcupine.Operation)
		for _, o := range history {
			keys[o.Input.(Op).Key] = append(keys[o.Input.(Op).Key], o)
		}
		return slices.Collect(maps.Values(keys))
	},
	Init: func() any { return version{} },
	Step: func(state, in, _ any) (bool, any) {
		v, o := state.(version), in.(Op)
		switch {
		case !o.Write:
			return v.value == o.Value, v
		case o.Seq <= v.seq, o.Outcome == Done && !o.Blind && v.value != o.Before:
			return false, nil
		}
		return true, version{o.Seq, o.Value}
	},
	DescribeOperation: func(in, _ any) string { return fmt.Sprint(in.(Op)) },
}

// Linearizable checks that there is one order of all writes, and of the reads that
// asked for it, which agrees with time and with every answer. A write of unknown
// outcome may stand anywhere after its call if the log has it; if not, it was never
// done.
func Linearizable(ops []Op, log []Entry) []string {
	at := byRequest(log)
	var history []porcupine.Operation
	for _, o := range ops {
		call, back := int64(o.Call), int64(o.Return)
		switch {
		case o.Write && o.Outcome == Refused, !o.Write && (o.Outcome != Done || !o.Linearizable):
			continue
		case o.Write && o.Outcome == Unknown:
			found := at[o.RequestID]
			if len(found) == 0 {
				continue
			}
			o.Seq, back = found[0].Seq, math.MaxInt64
		}
		history = append(history, porcupine.Operation{ClientId: o.Client, Input: o, Call: call, Output: nil, Return: back})
	}
	var p problems
	for _, key := range register.Partition(history) {
		switch porcupine.CheckOperationsTimeout(register, key, searchTime) {
		case porcupine.Illegal:
			p.add("%s has no linearizable order:\n%s", key[0].Input.(Op).Key, describe(key))
		case porcupine.Unknown:
			p.add("%s: no order of its %d operations was found within %v, nor was it shown that there is none", key[0].Input.(Op).Key, len(key), searchTime)
		}
	}
	return p
}

// describe lists the operations of one key, in order of their calls.
func describe(history []porcupine.Operation) string {
	slices.SortStableFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	out := ""
	for _, o := range history {
		in := o.Input.(Op)
		out += fmt.Sprintf("  %v", in)
		if in.Write && in.Outcome == Done && !in.Blind {
			out += fmt.Sprintf(" instead of %q", in.Before)
		}
		if in.Outcome == Unknown {
			out += " and is not answered"
		}
		out += "\n"
	}
	return out
}
