package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// One operation on the log and what it answered.
type logOp struct {
	submit string // the payload, or "" for a read of the whole log
}

type logAnswer struct {
	seq     uint64 // of a submit that succeeded
	log     string // what a read gave
	refused bool   // the submit was certainly not done
	unknown bool   // the submit may have been done
}

// logModel is a log that takes one entry at a time; its state is the payloads
// with a space after each.
var logModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{""} },
	Step: func(s, in, out any) []any {
		log, op, got := s.(string), in.(logOp), out.(logAnswer)
		longer := log + op.submit + " "
		switch {
		case op.submit == "" && got.log == log, got.refused:
			return []any{log}
		case op.submit == "":
			return nil
		case got.unknown:
			return []any{log, longer}
		case got.seq == uint64(strings.Count(longer, " ")):
			return []any{longer}
		}
		return nil
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
}

// history collects operations with the times of their call and return.
type history struct {
	mu    sync.Mutex // guards ops
	ops   []porcupine.Operation
	start time.Time
}

func (h *history) run(client int, op logOp, f func() logAnswer) {
	call := time.Since(h.start).Nanoseconds()
	out := f()
	back := time.Since(h.start).Nanoseconds()
	if out.unknown {
		back = 1 << 62 // it may still take effect after all others
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: op, Call: call, Output: out, Return: back})
}

// linearizable has writers and readers on two hubs, with connections that break
// before or after a write and leases that expire, and checks the history.
func linearizable(e *env) {
	h := &history{start: time.Now()}
	var tenures [2]atomic.Pointer[store.Tenure]
	var hubs [2]*store.Log
	for i := range hubs {
		hubs[i] = e.open(&Faults{Driver: e.driver(), OnAppend: flaky(int64(3 + i))}, store.Options{})
	}
	ctx, stop := context.WithCancel(e.ctx)
	var leaders, clients sync.WaitGroup
	for i := range hubs {
		leaders.Go(func() { leadOn(ctx, hubs[i], &tenures[i]) })
	}
	for c := range 6 {
		clients.Go(func() {
			for i := range 12 {
				if c == 0 && i%4 == 3 {
					e.Expire(e.T)
				}
				e.oneOp(h, c, i, hubs[c%2], &tenures)
			}
		})
	}
	clients.Wait()
	stop()
	leaders.Wait()
	if committed := len(e.entries(hubs[0])); committed == 0 {
		e.Fatal("nothing was committed: the test proves nothing")
	}
	if res := porcupine.CheckOperationsTimeout(logModel.ToModel(), h.ops, patience); res != porcupine.Ok {
		slices.SortFunc(h.ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
		for _, o := range h.ops {
			e.Logf("client %d at %d–%d: %s", o.ClientId, o.Call, o.Return, logModel.DescribeOperation(o.Input, o.Output))
		}
		e.Fatalf("the history is not linearizable (%s)", res)
	}
}

// flaky breaks the connection at every n-th append, in turn before and after
// the write.
func flaky(n int64) AppendHook {
	var calls atomic.Int64
	return func(_ context.Context, _ store.Batch, next func() error) error {
		switch c := calls.Add(1); c % (2 * n) {
		case 0:
			return errLink
		case n:
			if err := next(); err != nil {
				return err
			}
			return errLink
		}
		return next()
	}
}

// leadOn campaigns again and again.
func leadOn(ctx context.Context, l *store.Log, held *atomic.Pointer[store.Tenure]) {
	for ctx.Err() == nil {
		t, err := l.Campaign(ctx, store.Holder{Name: "hub"})
		if err != nil {
			continue
		}
		held.Store(t)
		select {
		case <-t.Context().Done():
		case <-ctx.Done():
			_ = t.Resign(context.WithoutCancel(ctx))
		}
	}
}

// leading gives a hub's tenure that is held, as far as that hub knows; the one
// that was expired may not have heard of it.
func (e *env) leading(tenures *[2]atomic.Pointer[store.Tenure], client int) *store.Tenure {
	for i := client; ; i++ {
		if t := tenures[i%2].Load(); t != nil && t.Context().Err() == nil {
			return t
		}
		if e.ctx.Err() != nil {
			e.Error("nobody leads")
			runtime.Goexit()
		}
		runtime.Gosched()
	}
}

func (e *env) oneOp(h *history, client, i int, l *store.Log, tenures *[2]atomic.Pointer[store.Tenure]) {
	if i%3 == 2 {
		h.run(client, logOp{}, func() logAnswer {
			var b strings.Builder
			for after := uint64(0); ; {
				got, err := l.Read(e.ctx, after, 10_000)
				if err != nil {
					e.Errorf("read: %v", err)
				}
				if len(got) == 0 {
					return logAnswer{log: b.String()}
				}
				for _, x := range got {
					b.Write(x.Payload)
					b.WriteByte(' ')
				}
				after = got[len(got)-1].Seq
			}
		})
		return
	}
	t := e.leading(tenures, client)
	payload := fmt.Sprintf("%d.%d", client, i)
	h.run(client, logOp{submit: payload}, func() logAnswer {
		x, err := t.Submit(e.ctx, draft(payload))
		switch {
		case err == nil:
			return logAnswer{seq: x.Seq}
		case fault.CodeOf(err) == fault.CodeWriteUnknown:
			return logAnswer{unknown: true}
		case errors.Is(err, fault.CodeLeaseLost):
			return logAnswer{refused: true}
		}
		e.Errorf("submit: %v", err)
		return logAnswer{unknown: true}
	})
}
