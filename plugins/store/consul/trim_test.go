package consul

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// TestATrimStopsNoWrites holds back the deletion of old entries: the trim is done
// and writes go on. What a hub that was closed meanwhile left, the next one deletes
// with its first trim.
func TestATrimStopsNoWrites(t *testing.T) {
	t.Parallel()
	s := consultest.Start(t, t.TempDir(), consultest.Options{}).Servers[0]
	left := func() []string {
		t.Helper()
		keys, _, err := s.Client().KV().Keys("meshkit/eu-west/", "", nil)
		ok(t, err)
		var out []string
		for _, k := range keys {
			if strings.Contains(k, "/log/") || strings.Contains(k, "/chunk/") {
				out = append(out, k)
			}
		}
		return out
	}
	deletes := newGate(t)
	slow := open(t, Config{Timeout: 2 * time.Second, Address: via(t, s, func(_ http.ResponseWriter, r *http.Request, body string) bool {
		if strings.Contains(body, `"delete"`) {
			deletes.pass(r.Context())
		}
		return false
	})})
	l, err := slow.Campaign(bounded(t), store.Holder{Name: "one"})
	ok(t, err)
	ok(t, slow.Append(bounded(t), records(l.Term(), 0, "a", strings.Repeat("b", 300<<10), "c", "d")))
	began := time.Now()
	ok(t, slow.Append(bounded(t), store.Batch{Term: l.Term(), After: 4, Trim: 2}))
	deletes.meets(t, "the deletion")
	ok(t, slow.Append(bounded(t), records(l.Term(), 4, "e")))
	if took := time.Since(began); took > time.Second {
		t.Errorf("a trim and a write took %v beside a deletion that hangs", took)
	}
	ok(t, slow.Close())
	if n := len(left()); n != 4+2 { // two entries share one
		t.Fatalf("%d keys are left of 4 of entries and 2 of chunks: the deletion was not held back", n)
	}

	next := open(t, Config{Address: s.HTTP})
	l, err = next.Campaign(bounded(t), store.Holder{Name: "two"})
	ok(t, err)
	ok(t, next.Append(bounded(t), store.Batch{Term: l.Term(), After: 5, Trim: 3}))
	for ctx := bounded(t); len(left()) != 2; {
		if ctx.Err() != nil {
			t.Fatalf("behind the mark is left %q", left())
		}
	}
}

// TestAChunkThatATrimTookIsNotDamage trims the log between the read of an entry and
// that of its chunks.
func TestAChunkThatATrimTookIsNotDamage(t *testing.T) {
	t.Parallel()
	s := consultest.Start(t, t.TempDir(), consultest.Options{}).Servers[0]
	writer := open(t, Config{Address: s.HTTP})
	l, err := writer.Campaign(bounded(t), store.Holder{Name: "hub"})
	ok(t, err)
	large := strings.Repeat("x", 300<<10)
	ok(t, writer.Append(bounded(t), records(l.Term(), 0, "a", large, "c", large, "e")))
	chunks := newGate(t)
	reader := open(t, Config{Timeout: patience, Address: via(t, s, func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/chunk/") {
			if !r.URL.Query().Has("consistent") {
				t.Error("a chunk is read from whichever server takes itself for the leader")
			}
			chunks.pass(r.Context())
		}
		return false
	})})
	type answer struct {
		page store.Page
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		p, err := reader.Read(bounded(t), 0, 10)
		read <- answer{p, err}
	}()
	chunks.meets(t, "the read of a chunk")
	ok(t, writer.Append(bounded(t), store.Batch{Term: l.Term(), After: 5, Trim: 2}))
	for ctx := bounded(t); ; {
		keys, _, err := s.Client().KV().Keys("meshkit/eu-west/chunk/", "", nil)
		ok(t, err)
		if len(keys) == 2 {
			break
		}
		ok(t, ctx.Err())
	}
	chunks.release()
	got := <-read
	ok(t, got.err)
	if got.page.Trimmed != 2 || len(got.page.Records) != 0 || got.page.Head.Seq != 5 {
		t.Errorf("read %d records of a log that ends at %d and is trimmed up to %d", len(got.page.Records), got.page.Head.Seq, got.page.Trimmed)
	}
	// Without a trim it is damage.
	_, err = s.Client().KV().DeleteTree("meshkit/eu-west/chunk/", nil)
	ok(t, err)
	_, err = writer.Read(bounded(t), 3, 1)
	wantCode(t, err, fault.CodeCorrupt)
}
