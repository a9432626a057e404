package consul

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// documentedPolicy is the ACL policy that the runbook has operators make.
func documentedPolicy(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../../docs/runbooks/consul.md")
	ok(t, err)
	_, rest, found := strings.Cut(string(page), "```hcl\n")
	policy, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("the runbook shows no policy")
	}
	return policy
}

// denying starts a Consul that permits nothing without a token.
func denying(t *testing.T) *consultest.Server {
	t.Helper()
	const management = "00000000-0000-0000-0000-00000000a001"
	return consultest.Start(t, t.TempDir(), consultest.Options{Token: management, Config: map[string]any{
		"acl": map[string]any{
			"enabled": true, "default_policy": "deny", "enable_token_persistence": false,
			"tokens": map[string]any{"initial_management": management, "agent": management},
		},
	}}).Servers[0]
}

// newToken makes a token of a policy.
func newToken(t *testing.T, s *consultest.Server, name, policy string) *api.ACLToken {
	t.Helper()
	acl := s.Client().ACL()
	p, _, err := acl.PolicyCreate(&api.ACLPolicy{Name: name, Rules: policy}, nil)
	ok(t, err)
	token, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: p.ID}}}, nil)
	ok(t, err)
	return token
}

// use does everything that a hub does with its store.
func use(t *testing.T, cfg Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(bounded(t), patience)
	defer cancel()
	d, err := Open(cfg)
	ok(t, err)
	l, err := store.Open(ctx, d, store.Options{Retain: 1})
	if err != nil {
		return errors.Join(err, d.Close())
	}
	defer l.Close()
	// A hub goes on trying; here the first refusal counts.
	cctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	l.OnCampaign(func(err error) {
		if err != nil {
			stop(err)
		}
	})
	tenure, err := l.Campaign(cctx, store.Holder{Name: "hub"})
	if told := context.Cause(cctx); err != nil && told != nil {
		return told
	}
	if err != nil {
		return err
	}
	first := make(chan error, 1)
	go func() { first <- l.Wait(cctx, 0) }()
	var last store.Entry
	for _, size := range []int{10, 300 << 10, 20, 30} {
		if last, err = tenure.Submit(ctx, func(store.Position) (store.Draft, error) {
			return store.Draft{Kind: "Test", Time: time.Unix(1, 0), Payload: make([]byte, size)}, nil
		}); err != nil {
			return err
		}
	}
	if err := <-first; err != nil {
		return err
	}
	if err := l.SaveSnapshot(ctx, tenure, last.GetSeq(), last.Hash, strings.NewReader(strings.Repeat("x", 600<<10))); err != nil {
		return err
	}
	if err := tenure.Trim(ctx, last.GetSeq()); err != nil {
		return err
	}
	snap, err := l.LatestSnapshot(ctx)
	if err != nil {
		return err
	}
	if _, err := io.ReadAll(snap.Open(ctx)); err != nil {
		return err
	}
	return tenure.Resign(ctx)
}

// TestTheDocumentedPolicyIsWhatAHubNeeds runs a hub's store with exactly the policy
// of the runbook, and with each rule of it taken away.
func TestTheDocumentedPolicyIsWhatAHubNeeds(t *testing.T) {
	t.Parallel()
	s := denying(t)
	policy := documentedPolicy(t)
	cfg := func(token string) Config { return Config{Address: s.HTTP, Domain: "eu-west", Token: token} }
	good := newToken(t, s, "meshhub", policy)
	ok(t, use(t, cfg(good.SecretID)))
	rules := regexp.MustCompile(`(?m)^\w+ "[^"]*" \{[^}]*\}\n`).FindAllString(policy, -1)
	if len(rules) < 3 {
		t.Fatalf("the policy has the rules %q", rules)
	}
	for i, rule := range rules {
		token := newToken(t, s, "lacking-"+string(rune('a'+i)), strings.Replace(policy, rule, "", 1))
		err := use(t, cfg(token.SecretID))
		if fault.CodeOf(err) != fault.CodeStoreUnavailable || !strings.Contains(err.Error(), "refuses the ACL token") {
			t.Errorf("without %s a hub is told %v", rule, err)
		}
	}
	d := open(t, Config{Address: s.HTTP, Domain: "another", Token: good.SecretID})
	wantCode(t, d.Put(bounded(t), "x", []byte("y")), fault.CodeStoreUnavailable)
	_, err := open(t, cfg("00000000-0000-0000-0000-0000000000ff")).Read(bounded(t), 0, 1)
	wantCode(t, err, fault.CodeStoreUnavailable)
	if !strings.Contains(err.Error(), "refuses the ACL token") {
		t.Errorf("a token that Consul does not know is told as %v", err)
	}
}

// A token that may lock and not write is no other writer: Consul names the operation that
// it forbids, which is the head's, and a conflict over the head looks alike.
func TestATokenThatMayNotWriteIsNotTakenForAnotherWriter(t *testing.T) {
	t.Parallel()
	s := denying(t)
	policy := documentedPolicy(t)
	lockOnly := strings.Replace(policy, "}\n", "}\nkey \"meshkit/eu-west/leader\" {\n  policy = \"write\"\n}\n", 1)
	lockOnly = strings.Replace(lockOnly, "key_prefix \"meshkit/eu-west/\" {\n  policy = \"write\"", "key_prefix \"meshkit/eu-west/\" {\n  policy = \"read\"", 1)
	refused := func(doing string, began time.Time, err error) {
		t.Helper()
		if fault.CodeOf(err) != fault.CodeStoreUnavailable || !strings.Contains(err.Error(), "refuses the ACL token") || fault.RemedyOf(err) != tokenRemedy {
			t.Errorf("%s: %v: %q", doing, err, fault.RemedyOf(err))
		}
		if took := time.Since(began); took > reportAfter {
			t.Errorf("%s: told after %s", doing, took)
		}
	}
	began := time.Now()
	refused("a term", began, use(t, Config{Address: s.HTTP, Domain: "eu-west", Token: newToken(t, s, "lock-only", lockOnly).SecretID}))

	acl := s.Client().ACL()
	p, _, err := acl.PolicyCreate(&api.ACLPolicy{Name: "changing", Rules: policy}, nil)
	ok(t, err)
	token, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: p.ID}}}, nil)
	ok(t, err)
	l, err := store.Open(bounded(t), open(t, Config{Address: s.HTTP, Token: token.SecretID}), store.Options{})
	ok(t, err)
	defer l.Close()
	tenure, err := l.Campaign(bounded(t), store.Holder{Name: "hub"})
	ok(t, err)
	submit := func() error {
		_, err := tenure.Submit(bounded(t), func(store.Position) (store.Draft, error) {
			return store.Draft{Kind: "Test", Time: time.Unix(1, 0), Payload: []byte("x")}, nil
		})
		return err
	}
	ok(t, submit())
	p.Rules = lockOnly
	_, _, err = acl.PolicyUpdate(p, nil)
	ok(t, err)
	began = time.Now()
	refused("an entry", began, submit())
}

// TestATokenIsReplacedWithoutARestart changes the file while the lease is held, and
// deletes the old token: writes go on, and so does the health check.
func TestATokenIsReplacedWithoutARestart(t *testing.T) {
	t.Parallel()
	s := denying(t)
	old := newToken(t, s, "old", documentedPolicy(t))
	file := filepath.Join(t.TempDir(), "token")
	ok(t, os.WriteFile(file, []byte(old.SecretID+"\n"), 0o600))
	d := open(t, Config{Address: s.HTTP, TokenFile: file})
	var hangs atomic.Bool
	d.Probe(func(context.Context) error {
		if hangs.Load() {
			return errors.New("the loop does not run")
		}
		return nil
	})
	l, err := d.Campaign(bounded(t), store.Holder{Name: "hub"})
	ok(t, err)
	ok(t, d.Append(bounded(t), records(l.Term(), 0, "a")))
	next := newToken(t, s, "next", documentedPolicy(t))
	ok(t, os.WriteFile(file, []byte(next.SecretID+"\n"), 0o600))
	_, err = l.Renew(bounded(t)) // as the tenure does every few seconds
	ok(t, err)
	_, err = s.Client().ACL().TokenDelete(old.AccessorID, nil)
	ok(t, err)
	ok(t, d.Append(bounded(t), records(l.Term(), 1, "b")))
	_, err = l.Renew(bounded(t))
	ok(t, err)
	// The agent reports the check with the new token: without it the lease would last.
	hangs.Store(true)
	ctx := bounded(t)
	renewals := time.NewTicker(time.Second) // a hub whose loop hangs may still renew
	defer renewals.Stop()
	for {
		select {
		case <-l.(store.Watched).Lost():
			return
		case <-ctx.Done():
			t.Fatal("the lease outlived the loop")
		case <-renewals.C:
			_, _ = l.Renew(ctx)
		}
	}
}

// TestATokenFileCountsAndMustHoldAToken has the environment name a good token: the file
// that was named wins, and what is wrong with it is said.
func TestATokenFileCountsAndMustHoldAToken(t *testing.T) {
	s := denying(t)
	good := newToken(t, s, "good", documentedPolicy(t))
	t.Setenv("CONSUL_HTTP_TOKEN", good.SecretID)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		ok(t, os.WriteFile(path, []byte(text), 0o600))
		ok(t, os.Chmod(path, mode))
		return path
	}
	for path, says := range map[string]string{
		filepath.Join(dir, "nosuch"):                      "no such file",
		dir:                                               "is a directory",
		write("empty", " \n", 0o600):                      "is empty",
		write("open", good.SecretID, 0o644):               "mode is 0644",
		write("group", good.SecretID, 0o640):              "mode is 0640",
		write("large", strings.Repeat("x", 1<<20), 0o600): "",
	} {
		_, err := Open(Config{Address: s.HTTP, Domain: "eu-west", TokenFile: path})
		if fault.CodeOf(err) != fault.CodeConfig || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), says) || !strings.Contains(fault.RemedyOf(err), path) {
			t.Errorf("%s: %v; fix: %s", path, err, fault.RemedyOf(err))
		}
	}
	bad := write("bad", "00000000-0000-0000-0000-0000000000ff", 0o600)
	_, err := open(t, Config{Address: s.HTTP, TokenFile: bad}).Read(bounded(t), 0, 1)
	wantCode(t, err, fault.CodeStoreUnavailable)

	var log bytes.Buffer
	path := write("token", good.SecretID, 0o600)
	d := open(t, Config{Address: s.HTTP, TokenFile: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	ok(t, os.Remove(path))
	for range 3 {
		_, err = d.Read(bounded(t), 0, 1)
		ok(t, err)
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), path) {
		t.Errorf("a token file that is gone was told %d times: %s", n, log.String())
	}
	_, err = s.Client().ACL().TokenDelete(good.AccessorID, nil)
	ok(t, err)
	_, err = d.Read(bounded(t), 0, 1)
	if fault.CodeOf(err) != fault.CodeStoreUnavailable || !strings.Contains(err.Error(), "refuses the ACL token") || !strings.Contains(err.Error(), path) {
		t.Errorf("a token that is refused, whose file is gone: %v", err)
	}
}

// pki is a CA with a certificate for 127.0.0.1 that serves and calls, as files.
func pki(t *testing.T, name string) consultest.TLS {
	t.Helper()
	dir := t.TempDir()
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(dir, file)
		ok(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	ok(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	ok(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	ok(t, err)
	return consultest.TLS{CA: write("ca.pem", "CERTIFICATE", caDER), Cert: write("leaf.pem", "CERTIFICATE", der), Key: write("leaf.key", "EC PRIVATE KEY", keyDER)}
}

// TestTLSIsMutualAndItsMistakesAreTold speaks https to a Consul that wants a
// client's certificate, in the ways in which that goes wrong, too.
func TestTLSIsMutualAndItsMistakesAreTold(t *testing.T) {
	t.Parallel()
	files := pki(t, "Consul CA")
	other := pki(t, "another CA")
	s := consultest.Start(t, t.TempDir(), consultest.Options{TLS: &files}).Servers[0]
	url := func(address, query string) Config {
		t.Helper()
		c, err := ParseURL("consul://" + address + "/meshkit?dc=dc1" + query)
		ok(t, err)
		c.Domain = "eu-west"
		return c
	}
	mutual := "&ca=" + files.CA + "&cert=" + files.Cert + "&key=" + files.Key
	ok(t, use(t, url(s.HTTPS, mutual)))
	for name, c := range map[string]struct {
		cfg    Config
		remedy string
	}{
		"no certificate":         {url(s.HTTPS, "&ca="+files.CA), "do not agree on TLS"},
		"another CA's":           {url(s.HTTPS, "&ca="+files.CA+"&cert="+other.Cert+"&key="+other.Key), "do not agree on TLS"},
		"Consul of another CA":   {url(s.HTTPS, "&ca="+other.CA+"&cert="+files.Cert+"&key="+files.Key), "Consul's certificate"},
		"another name":           {url(s.HTTPS, mutual+"&server-name=consul.example"), "Consul's certificate"},
		"plaintext port":         {url(s.HTTP, mutual), "do not agree on TLS"},
		"a name that is unknown": {url("no-such-host.invalid:8500", ""), "does not resolve"},
		"nothing there":          {url("127.0.0.1:1", ""), "Start the Consul agent"},
		"another datacenter":     {url(s.HTTP, "x"), "Correct dc"},
	} {
		_, err := open(t, c.cfg).Read(bounded(t), 0, 1)
		var f *fault.Error
		if fault.CodeOf(err) != fault.CodeStoreUnavailable || !errors.As(err, &f) || !strings.Contains(f.Remedy, c.remedy) {
			t.Errorf("%s: %v; remedy %q, want %q", name, err, f.Remedy, c.remedy)
		}
	}
}

// TestAPrefixIsAnIsland keeps two domains of one name apart.
func TestAPrefixIsAnIsland(t *testing.T) {
	t.Parallel()
	s := consultest.Start(t, t.TempDir(), consultest.Options{}).Servers[0]
	for _, prefix := range []string{"one", "two/deep"} {
		d := open(t, Config{Address: s.HTTP, Prefix: prefix})
		l, err := d.Campaign(bounded(t), store.Holder{Name: "hub"})
		ok(t, err)
		ok(t, d.Append(bounded(t), records(l.Term(), 0, prefix)))
		ok(t, d.Put(bounded(t), "snapshot/x", []byte(prefix)))
	}
	for _, prefix := range []string{"one", "two/deep"} {
		p, err := open(t, Config{Address: s.HTTP, Prefix: prefix}).Read(bounded(t), 0, 10)
		ok(t, err)
		if len(p.Records) != 1 || string(p.Records[0].Data) != prefix {
			t.Errorf("under %s stands %v", prefix, p.Records)
		}
	}
}

// TestEveryRequestNamesDatacenterNamespaceAndPartition uses a server that records:
// namespaces and partitions are Consul Enterprise's.
func TestEveryRequestNamesDatacenterNamespaceAndPartition(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := make(map[string]string) // path to what it named
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		body, _ := io.ReadAll(r.Body)
		named := q.Get("dc") + " " + q.Get("ns") + " " + q.Get("partition")
		if r.URL.Path == "/v1/agent/service/register" { // an agent is of one datacenter and partition
			if strings.Contains(string(body), `"Namespace":"team"`) && strings.Contains(string(body), `"Partition":"blue"`) {
				named = "dc9 team blue"
			}
		}
		mu.Lock()
		seen[r.Method+" "+r.URL.Path] = named
		mu.Unlock()
		if strings.Contains(r.URL.Path, "/session/create") {
			_, _ = w.Write([]byte(`{"ID":"s"}`))
			return
		}
		if r.URL.Path != "/v1/agent/service/register" {
			http.Error(w, "no", http.StatusInternalServerError)
		}
	}))
	defer srv.Close()
	d := open(t, Config{
		Address: strings.TrimPrefix(srv.URL, "http://"), Datacenter: "dc9", Namespace: "team", Partition: "blue",
	})
	ctx, cancel := context.WithCancel(bounded(t))
	_, _ = d.Read(ctx, 0, 1)
	_ = d.Wait(ctx, 0)
	_ = d.Put(ctx, "a", nil)
	_, _ = d.Get(ctx, "a")
	_, _ = d.List(ctx, "a")
	ok(t, d.register(ctx, store.Holder{Name: "hub"}))
	session, err := d.newSession(ctx, store.Holder{Name: "hub"})
	ok(t, err)
	_ = d.renew(ctx, session)
	_, _ = d.await(ctx, session, store.Holder{Name: "hub"}, func() {})
	d.drop(ctx, session)
	cancel()
	mu.Lock()
	defer mu.Unlock()
	if len(seen) < 8 {
		t.Errorf("only %v were asked", seen)
	}
	for path, named := range seen {
		if named != "dc9 team blue" {
			t.Errorf("%s names %q", path, named)
		}
	}
}

// TestAHubIsListedWhileItRuns looks at the service instance that the runbook
// describes, also after somebody took it away.
func TestAHubIsListedWhileItRuns(t *testing.T) {
	t.Parallel()
	s := consultest.Start(t, t.TempDir(), consultest.Options{}).Servers[0]
	client := s.Client()
	listed := func(want int) *api.ServiceEntry {
		t.Helper()
		ctx := bounded(t)
		for {
			found, _, err := client.Health().Service("meshhub", "eu-west", true, (&api.QueryOptions{}).WithContext(ctx))
			ok(t, err) // fails when ctx ends
			if len(found) == want {
				if want == 0 {
					return nil
				}
				return found[0]
			}
		}
	}
	d := open(t, Config{Address: s.HTTP})
	campaign := func() store.Lease {
		t.Helper()
		l, err := d.Campaign(bounded(t), store.Holder{Name: "hub1", Address: "10.0.0.1:8443"})
		ok(t, err)
		return l
	}
	l := campaign()
	e := listed(1)
	if e.Service.Address != "10.0.0.1" || e.Service.Port != 8443 || e.Service.Meta["hub"] != "hub1" || e.Service.Meta["domain"] != "eu-west" {
		t.Errorf("the hub is listed as %+v", e.Service)
	}
	loop := 0
	for _, c := range e.Checks {
		if c.Name == "leader loop" {
			loop++
		}
	}
	if loop != 1 {
		t.Errorf("its checks are %+v", e.Checks)
	}
	ok(t, l.Release(bounded(t)))
	ok(t, client.Agent().ServiceDeregister(e.Service.ID))
	listed(0)
	campaign()
	listed(1)
	ok(t, d.Close())
	listed(0)
}
