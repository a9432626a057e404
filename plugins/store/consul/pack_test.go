package consul

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// TestEntriesOfAnAppendShareKeys reads a log of appends of many sizes from everywhere,
// trims it within a key, and counts keys.
func TestEntriesOfAnAppendShareKeys(t *testing.T) {
	t.Parallel()
	s := consultest.Start(t, t.TempDir(), consultest.Options{}).Servers[0]
	d := open(t, Config{Address: s.HTTP})
	l, err := d.Campaign(bounded(t), store.Holder{Name: "hub"})
	ok(t, err)
	var want []string
	keys := 0
	for i, n := range []int{1, packEntries, 3, 1, 1, packEntries} {
		var add []string
		for k := range n {
			add = append(add, fmt.Sprintf("%d.%d", i, k))
		}
		ok(t, d.Append(bounded(t), records(l.Term(), uint64(len(want)), add...)))
		want = append(want, add...)
		keys++
	}
	half := strings.Repeat("h", inlineBytes/2)
	ok(t, d.Append(bounded(t), records(l.Term(), uint64(len(want)), half, half, "after")))
	want = append(want, half, half, "after")
	keys += 2 // each of the large ones has no room for the other

	list := func() []string {
		t.Helper()
		got, _, err := s.Client().KV().Keys("meshkit/eu-west/log/", "", nil)
		ok(t, err)
		return got
	}
	if got := list(); len(got) != keys {
		t.Fatalf("%d keys for %d appends: %q", len(got), keys, got)
	}
	from := func(d *Driver, after, limit int) []string {
		t.Helper()
		p, err := d.Read(bounded(t), uint64(after), limit)
		ok(t, err)
		var got []string
		for i, r := range p.Records {
			if r.Seq != uint64(after+1+i) || r.Term != l.Term() {
				t.Fatalf("after %d record %d is entry %d of term %d", after, i, r.Seq, r.Term)
			}
			got = append(got, string(r.Data))
		}
		return got
	}
	knows, fresh := open(t, Config{Address: s.HTTP}), open(t, Config{Address: s.HTTP})
	for after := range want {
		for _, limit := range []int{1, 2, 1000} {
			for _, d := range []*Driver{knows, fresh} {
				got := from(d, after, limit)
				if n := len(got); n == 0 || n > limit || !slices.Equal(got, want[after:after+n]) {
					t.Fatalf("after %d, limit %d: %d entries %.40q, want those from %.40q on", after, limit, n, got, want[after])
				}
			}
		}
		fresh = open(t, Config{Address: s.HTTP})
	}

	ok(t, d.Append(bounded(t), store.Batch{Term: l.Term(), After: uint64(len(want)), Trim: 5}))
	for ctx := bounded(t); len(list()) != keys-1; { // the second append goes on behind the mark
		if ctx.Err() != nil {
			t.Fatalf("left are %q", list())
		}
	}
	if got := from(fresh, 5, 10); !slices.Equal(got, want[5:15]) {
		t.Errorf("behind the mark is %q", got)
	}
}

func TestADamagedKeyOfManyEntriesIsRefused(t *testing.T) {
	good := encodePack([]store.Record{
		{Position: store.Position{Seq: 7, Term: 3}, Data: []byte("one")}, {Position: store.Position{Seq: 8, Term: 3}, Data: []byte("two")},
	})
	if got, chunks, err := decodeEntry(7, &api.KVPair{Value: good}); err != nil || chunks != nil || len(got) != 2 || got[1].Seq != 8 || string(got[1].Data) != "two" {
		t.Fatalf("a good key: %v, %v", got, err)
	}
	for n := range good[:len(good)-1] {
		if got, _, err := decodeEntry(7, &api.KVPair{Value: good[:n]}); err == nil {
			t.Errorf("cut to %d bytes: %v", n, got)
		}
	}
	if got, _, err := decodeEntry(7, &api.KVPair{Value: append(slices.Clone(good), make([]byte, packEntries*packHeader)...)}); err == nil {
		t.Errorf("with too many entries: %d", len(got))
	}
}
