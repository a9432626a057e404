// Package storetest is the suite that every store driver passes:
//
//	func TestDriver(t *testing.T) { storetest.Run(t, openEngine) }
//
// It holds the driver to the contract of store.Driver, and runs store.Log on it
// with every kind of failed write. Faults, which wraps a driver for that, is of
// use to other tests as well.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// Engine is one log in a storage engine, empty at first.
type Engine struct {
	// Driver gives the access of another hub to the log.
	Driver func(t *testing.T) store.Driver
	// Expire ends the lease that is held, as if its holder had been silent for too
	// long; it returns when the next campaign can succeed.
	Expire func(t *testing.T)
	// Restart stops the engine and starts it again with what was acknowledged.
	// Drivers from before are dead. Tests that call it run one after the other, and
	// none beside them: engines may be parts of one server.
	Restart func(t *testing.T)
}

// patience bounds what must happen; nothing waits that long when all is well.
const patience = 20 * time.Second

// Run runs the suite; open gives an engine of its own to each test, which goes
// with the test.
func Run(t *testing.T, open func(t *testing.T) Engine) {
	t.Helper()
	for _, c := range allCases() {
		t.Run(c.name, func(t *testing.T) {
			if !c.restarts {
				t.Parallel()
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c.run(&env{T: t, ctx: ctx, Engine: open(t)})
		})
	}
}

type testCase struct {
	name     string
	run      func(*env)
	restarts bool // it calls Restart
}

func allCases() []testCase {
	var all []testCase
	all = append(all, driverCases()...)
	all = append(all, leaseCases()...)
	all = append(all, logCases()...)
	all = append(all, failureCases()...)
	all = append(all, snapshotCases()...)
	all = append(all, restoreCases()...)
	return append(all, testCase{name: "Linearizable", run: linearizable})
}

// env is what a test works with.
type env struct {
	*testing.T
	Engine
	ctx context.Context
}

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) fails(err error, code fault.Code) {
	e.Helper()
	if got := fault.CodeOf(err); got != code {
		e.Fatalf("got error %v (%s), want %s", err, got, code)
	}
}

func (e *env) driver() store.Driver { e.Helper(); return e.Driver(e.T) }

func (e *env) campaign(d store.Driver) store.Lease {
	e.Helper()
	l, err := d.Campaign(e.ctx, store.Holder{Name: "hub", Address: "127.0.0.1:1"})
	e.ok(err)
	return l
}

// read gives the whole log as the driver has it.
func (e *env) read(d store.Driver) []store.Record {
	e.Helper()
	var all []store.Record
	for {
		p, err := d.Read(e.ctx, uint64(len(all)), 100)
		e.ok(err)
		if len(p.Records) == 0 {
			return all
		}
		all = append(all, p.Records...)
	}
}

// holds checks that the log has exactly these records.
func (e *env) holds(d store.Driver, want ...string) {
	e.Helper()
	var got []string
	for _, r := range e.read(d) {
		got = append(got, string(r.Data))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		e.Fatalf("the log holds %q, want %q", got, want)
	}
}

// open gives a Log that is closed with the test.
func (e *env) open(d store.Driver, opts store.Options) *store.Log {
	e.Helper()
	l, err := store.Open(e.ctx, d, opts)
	e.ok(err)
	e.Cleanup(func() { l.Close() })
	return l
}

func (e *env) lead(l *store.Log, opts ...store.TenureOption) *store.Tenure {
	e.Helper()
	t, err := l.Campaign(e.ctx, store.Holder{Name: "hub", Address: "127.0.0.1:1"}, opts...)
	e.ok(err)
	return t
}

// draft proposes an entry with that payload.
func draft(payload string) func(store.Position) (store.Draft, error) {
	return func(store.Position) (store.Draft, error) {
		return store.Draft{Kind: "Test", Author: "spiffe://test/operator/a", Time: time.Unix(1700000000, 0), Payload: []byte(payload)}, nil
	}
}

func (e *env) submit(t *store.Tenure, payload string) store.Entry {
	e.Helper()
	got, err := t.Submit(e.ctx, draft(payload))
	e.ok(err)
	return got
}

// entries gives the whole log, verified.
func (e *env) entries(l *store.Log) []store.Entry {
	e.Helper()
	var all []store.Entry
	for {
		got, err := l.Read(e.ctx, uint64(len(all)), 7)
		e.ok(err)
		if len(got) == 0 {
			return all
		}
		all = append(all, got...)
	}
}

func (e *env) payloads(l *store.Log) []string {
	e.Helper()
	var all []string
	for _, x := range e.entries(l) {
		all = append(all, string(x.Payload))
	}
	return all
}

func (e *env) logHolds(l *store.Log, want ...string) {
	e.Helper()
	if got := e.payloads(l); fmt.Sprint(got) != fmt.Sprint(want) {
		e.Fatalf("the log holds %q, want %q", got, want)
	}
}

// receive waits for a value that must come.
func receive[T any](e *env, c <-chan T) T {
	e.Helper()
	select {
	case v := <-c:
		return v
	case <-e.ctx.Done():
		e.Fatal("waited in vain")
		panic("unreachable")
	}
}

// spawn runs f and gives its result.
func spawn[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

var errLink = errors.New("the connection broke")
