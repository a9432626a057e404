package hub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/storetest"
)

// cell is one call on one resource: a write of a value, or a read.
type cell struct {
	write bool
	value string
}

// outcome is its answer. A write that may or may not have been done is maybe.
type outcome struct {
	value string
	maybe bool
}

// register is the model: a resource holds what was written last.
var register = porcupine.NondeterministicModel{
	Init: func() []any { return []any{""} },
	Step: func(state, input, output any) []any {
		in, out := input.(cell), output.(outcome)
		switch {
		case in.write && out.maybe:
			return []any{state, in.value}
		case in.write:
			return []any{in.value}
		case out.value == state:
			return []any{state}
		}
		return nil
	},
	Equal: func(a, b any) bool { return a == b },
}

// TestTheHistoryOfAHubIsLinearizable writes and reads one resource from many
// sides while appends fail in both ways: not done, and done but reported failed.
func TestTheHistoryOfAHubIsLinearizable(t *testing.T) {
	d := hubtest.NewDomain(t)
	broken := errors.New("connection reset")
	d.Wrap = func(driver store.Driver) store.Driver {
		return &storetest.Faults{Driver: driver, OnAppend: func(_ context.Context, _ store.Batch, next func() error) error {
			switch rand.N(6) {
			case 0:
				return broken
			case 1:
				if err := next(); err != nil {
					return err
				}
				return broken
			case 2:
				return fault.New(fault.CodeStoreFull, "no space")
			}
			return next()
		}}
	}
	h := d.Start(t)
	o := operate(t, h)
	begin := time.Now()
	var mu sync.Mutex // guards ops
	var ops []porcupine.Operation
	note := func(client int, in cell, call time.Duration, out outcome) {
		mu.Lock()
		defer mu.Unlock()
		ops = append(ops, porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: int64(time.Since(begin))})
	}
	var wg sync.WaitGroup
	for client := range 6 {
		wg.Go(func() {
			for i := range 15 {
				call := time.Since(begin)
				if client%3 == 2 {
					got, err := o.resources.Get(t.Context(), &adminv1.GetRequest{Key: &adminv1.Key{Kind: "Cluster", Name: "x"}})
					value := ""
					if err == nil {
						_, rest, _ := strings.Cut(string(got.GetResource().GetContent()), `"address":"`)
						value, _, _ = strings.Cut(rest, `"`)
					} else if fault.CodeOf(err) != fault.CodeNoSuchResource {
						t.Errorf("read: %v", err)
						return
					}
					note(client, cell{}, call, outcome{value: value})
					continue
				}
				value := fmt.Sprintf("10.0.%d.%d:80", client, i)
				_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{
					RequestId: fmt.Sprint(client, "-", i), Change: &adminv1.Change{Resources: [][]byte{cluster("x", value)}},
				})
				switch fault.CodeOf(err) {
				case "":
					note(client, cell{write: true, value: value}, call, outcome{})
				case fault.CodeWriteUnknown, fault.CodeStoreFailed:
					note(client, cell{write: true, value: value}, call, outcome{maybe: true})
				case fault.CodeStoreFull: // it is promised not to be there
				default:
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if res := porcupine.CheckOperationsTimeout(register.ToModel(), ops, 10*time.Second); res != porcupine.Ok {
		t.Errorf("the history of %d calls is %s", len(ops), res)
	}
}
