package consul

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// patience bounds what must happen.
const patience = 30 * time.Second

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, cfg Config) *Driver {
	t.Helper()
	if cfg.Domain == "" {
		cfg.Domain = "eu-west"
	}
	d, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code fault.Code) {
	t.Helper()
	if got := fault.CodeOf(err); got != code {
		t.Fatalf("got error %v (%s), want %s", err, got, code)
	}
}

func records(term, after uint64, data ...string) store.Batch {
	b := store.Batch{Term: term, After: after}
	for i, d := range data {
		b.Records = append(b.Records, store.Record{Position: store.Position{Seq: after + 1 + uint64(i), Term: term}, Data: []byte(d)})
	}
	return b
}

// TestEditsInTheStoreAreRefused: somebody with a token writes into the keys.
func TestEditsInTheStoreAreRefused(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, t.TempDir(), consultest.Options{})
	kv := c.Servers[0].Client().KV()
	put := func(key, value string) {
		t.Helper()
		_, err := kv.Put(&api.KVPair{Key: key, Value: []byte(value)}, nil)
		ok(t, err)
	}
	begin := func(t *testing.T, domain string) (*Driver, store.Lease) {
		t.Helper()
		d := open(t, Config{Address: c.Servers[0].HTTP, Domain: domain})
		l, err := d.Campaign(bounded(t), store.Holder{Name: "hub"})
		ok(t, err)
		ok(t, d.Append(bounded(t), records(l.Term(), 0, "a", "b")))
		return d, l
	}
	t.Run("head", func(t *testing.T) {
		d, l := begin(t, "head")
		put("meshkit/head/head", `{"seq":1,"term":1,"lease":1}`)
		_, err := d.Read(bounded(t), 0, 10)
		wantCode(t, err, fault.CodeCorrupt)
		wantCode(t, d.Wait(bounded(t), 2), fault.CodeCorrupt)
		wantCode(t, d.Append(bounded(t), records(l.Term(), 2, "c")), fault.CodeCorrupt)
		ok(t, l.Release(bounded(t)))
		_, err = open(t, Config{Address: c.Servers[0].HTTP, Domain: "head"}).Campaign(bounded(t), store.Holder{Name: "next"})
		wantCode(t, err, fault.CodeCorrupt)
	})
	t.Run("entry", func(t *testing.T) {
		d, _ := begin(t, "entry")
		put("meshkit/entry/log/00000000000000000001", "x")
		_, err := d.Read(bounded(t), 0, 10)
		wantCode(t, err, fault.CodeCorrupt)
	})
	t.Run("an entry's bytes", func(t *testing.T) {
		d := open(t, Config{Address: c.Servers[0].HTTP, Domain: "bytes"})
		log, err := store.Open(bounded(t), d, store.Options{})
		ok(t, err)
		tenure, err := log.Campaign(bounded(t), store.Holder{Name: "hub"})
		ok(t, err)
		_, err = tenure.Submit(bounded(t), func(store.Position) (store.Draft, error) {
			return store.Draft{Kind: "Test", Payload: []byte("abc")}, nil
		})
		ok(t, err)
		const key = "meshkit/bytes/log/00000000000000000001"
		pair, _, err := kv.Get(key, nil)
		ok(t, err)
		put(key, strings.Replace(string(pair.Value), "abc", "abd", 1))
		_, err = log.Read(bounded(t), 0, 10)
		wantCode(t, err, fault.CodeCorrupt)
		if !strings.Contains(err.Error(), "Consul key "+key) || !strings.Contains(fault.RemedyOf(err), "from one Consul snapshot") {
			t.Errorf("it says %v, and to do %q", err, fault.RemedyOf(err))
		}
	})
	t.Run("an entry beyond the head is none", func(t *testing.T) {
		d, l := begin(t, "beyond")
		put("meshkit/beyond/log/00000000000000000003", "\x00\x00\x00\x00\x00\x00\x00\x01\x00planted")
		p, err := d.Read(bounded(t), 0, 10)
		ok(t, err)
		if len(p.Records) != 2 {
			t.Fatalf("read %d records, want 2", len(p.Records))
		}
		ok(t, d.Append(bounded(t), records(l.Term(), 2, "c")))
		p, err = d.Read(bounded(t), 2, 10)
		ok(t, err)
		if len(p.Records) != 1 || string(p.Records[0].Data) != "c" {
			t.Fatalf("the planted entry stands: %v", p.Records)
		}
	})
	t.Run("leader", func(t *testing.T) {
		d, l := begin(t, "leader")
		_, err := kv.Delete("meshkit/leader/leader", nil)
		ok(t, err)
		wantCode(t, d.Append(bounded(t), records(l.Term(), 2, "c")), fault.CodeLeaseLost)
	})
	t.Run("chunk", func(t *testing.T) {
		d, l := begin(t, "chunk")
		ok(t, d.Append(bounded(t), records(l.Term(), 2, strings.Repeat("x", 300<<10))))
		keys, _, err := kv.Keys("meshkit/chunk/chunk/", "", nil)
		ok(t, err)
		if len(keys) != 2 {
			t.Fatalf("300 KiB lie in %q, want two chunks", keys)
		}
		put(keys[0], "y")
		_, err = d.Read(bounded(t), 2, 1)
		wantCode(t, err, fault.CodeCorrupt)
	})
}

// holderEnv has the test program hold a lease instead of testing.
const holderEnv = "MESHKIT_TEST_HOLD_LEASE"

func holdLease(address string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	d, err := Open(Config{Address: address, Domain: "eu-west"})
	fail(err)
	log, err := store.Open(context.Background(), d, store.Options{})
	fail(err)
	tenure, err := log.Campaign(context.Background(), store.Holder{Name: "first"})
	fail(err)
	fmt.Println("leads", tenure.Term())
	for i := 1; ; i++ {
		_, err := tenure.Submit(context.Background(), func(store.Position) (store.Draft, error) {
			return store.Draft{Kind: "Test", Author: "a", Time: time.Unix(1, 0), Payload: fmt.Append(nil, i)}, nil
		})
		switch {
		case err == nil:
			fmt.Println("wrote", i)
		case errors.Is(err, fault.CodeWriteUnknown): // of the one that was in flight when this process was stopped
		default:
			fmt.Println("refused", fault.CodeOf(err))
			return
		}
	}
}

// TestAHolderThatIsGoneIsReplaced kills and stops a process that holds the
// lease and writes.
func TestAHolderThatIsGoneIsReplaced(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			c := consultest.Start(t, t.TempDir(), consultest.Options{})
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), holderEnv+"="+c.Servers[0].HTTP)
			out, err := cmd.StdoutPipe()
			ok(t, err)
			ok(t, cmd.Start())
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			lines := bufio.NewScanner(out)
			acked := 0
			for acked < 20 && lines.Scan() {
				_, _ = fmt.Sscanf(lines.Text(), "wrote %d", &acked)
			}
			d := open(t, Config{Address: c.Servers[0].HTTP})
			ok(t, cmd.Process.Signal(sig))
			log, err := store.Open(bounded(t), d, store.Options{})
			ok(t, err)
			tenure, err := log.Campaign(bounded(t), store.Holder{Name: "second"})
			ok(t, err)
			defer tenure.Resign(context.Background())
			_, err = tenure.Submit(bounded(t), func(store.Position) (store.Draft, error) {
				return store.Draft{Kind: "Test", Author: "a", Time: time.Unix(1, 0), Payload: []byte("next")}, nil
			})
			ok(t, err)
			// The other goes on: what it has in flight must not get in any more.
			ok(t, errors.Join(cmd.Process.Signal(syscall.SIGCONT), nil))
			refused, said := false, ""
			for lines.Scan() {
				_, _ = fmt.Sscanf(lines.Text(), "wrote %d", &acked)
				said = lines.Text()
				refused = refused || said == "refused "+string(fault.CodeLeaseLost)
			}
			if sig == syscall.SIGSTOP && !refused {
				t.Errorf("the holder that was stopped was not told that its lease is over; it said %q", said)
			}
			entries, err := log.Read(bounded(t), 0, 0)
			ok(t, err)
			n := 0
			for len(entries) > 0 {
				for _, e := range entries {
					if e.Term < tenure.Term() {
						n++
					}
				}
				entries, err = log.Read(bounded(t), entries[len(entries)-1].Seq, 0)
				ok(t, err)
			}
			if n < acked {
				t.Fatalf("%d writes were acknowledged, %d are in the log", acked, n)
			}
		})
	}
}

// TestALoopThatHangsLosesTheLease: the port answers, the loop of the leader does not.
func TestALoopThatHangsLosesTheLease(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, t.TempDir(), consultest.Options{})
	d := open(t, Config{Address: c.Servers[0].HTTP})
	var hangs atomic.Bool
	d.Probe(func(context.Context) error {
		if hangs.Load() {
			return errors.New("the loop does not run")
		}
		return nil
	})
	l, err := d.Campaign(bounded(t), store.Holder{Name: "hub"})
	ok(t, err)
	hangs.Store(true)
	select {
	case <-l.(store.Watched).Lost():
	case <-bounded(t).Done():
		t.Fatal("the lease outlived the loop")
	}
	wantCode(t, d.Append(bounded(t), records(l.Term(), 0, "a")), fault.CodeLeaseLost)
}

// TestWithoutAQuorumCallsEndSoon: two of three servers are gone.
func TestWithoutAQuorumCallsEndSoon(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, t.TempDir(), consultest.Options{Servers: 3})
	d := open(t, Config{Address: c.Servers[0].HTTP, Timeout: 500 * time.Millisecond})
	l, err := d.Campaign(bounded(t), store.Holder{Name: "hub"})
	ok(t, err)
	ok(t, d.Append(bounded(t), records(l.Term(), 0, "a")))
	c.Servers[1].Kill()
	c.Servers[2].Kill()
	err = d.Append(bounded(t), records(l.Term(), 1, "b"))
	if err == nil {
		t.Fatal("an append was acknowledged without a quorum")
	}
	if code := fault.CodeOf(err); code == fault.CodeStoreUnavailable || code == fault.CodeLeaseLost {
		t.Fatalf("an append that may still be done was answered with %v", err)
	}
	_, err = d.Read(bounded(t), 0, 1)
	wantCode(t, err, fault.CodeStoreUnavailable)
	c.Servers[1].Start()
	c.Servers[2].Start()
	c.Ready()
	p, err := d.Read(bounded(t), 0, 10)
	ok(t, err)
	if len(p.Records) < 1 || string(p.Records[0].Data) != "a" {
		t.Fatalf("after the loss of the quorum the log holds %v", p.Records)
	}
}

func TestNothingToConnectToIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Address: "127.0.0.1:1"})
	_, err := d.Read(bounded(t), 0, 1)
	wantCode(t, err, fault.CodeStoreUnavailable)
	_, err = d.Campaign(bounded(t), store.Holder{Name: "hub"})
	wantCode(t, err, fault.CodeStoreUnavailable)
}
