package hub_test

import (
	"context"
	"crypto"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/storetest"
	"github.com/meshkit/meshkit/pkg/trust"
)

// logged gives the log's entries of a kind.
func logged(t *testing.T, d *hubtest.Domain, kind string) []store.Entry {
	t.Helper()
	l, err := store.Open(t.Context(), d.Store.Driver(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all, err := l.Read(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var out []store.Entry
	for _, e := range all {
		if e.GetKind() == kind {
			out = append(out, e)
		}
	}
	return out
}

// used tells how many uses of a token have been spent.
func used(t *testing.T, h *hubtest.Running, token string) uint32 {
	t.Helper()
	tokens, err := operate(t, h).fleet.ListTokens(t.Context(), &adminv1.ListTokensRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range tokens.GetTokens() {
		if strings.HasPrefix(token, x.GetId()+".") {
			return x.GetUsed()
		}
	}
	t.Fatalf("the token is not listed: %v", tokens)
	return 0
}

// restarted starts hub1 again where the others look for it.
func restarted(t *testing.T, d *hubtest.Domain, hub2 *hubtest.Running, adjust ...func(*hub.Options)) *hubtest.Running {
	t.Helper()
	hubs, err := operate(t, hub2).fleet.ListHubs(t.Context(), &adminv1.ListHubsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hubs.GetHubs() {
		if h.GetName() == hubtest.HubName {
			return d.Start(t, append(adjust, at(t, h.GetAddress()))...)
		}
	}
	t.Fatalf("hub1 is not listed: %v", hubs)
	return nil
}

func hubToken(t *testing.T, h *hubtest.Running, uses uint32) string {
	t.Helper()
	return h.Token(t, &adminv1.CreateTokenRequest{Role: "hub", Uses: uses})
}

// works checks that a hub is in the domain with what it was answered: its certificate,
// and one that its issuing CA made.
func works(t *testing.T, h *hubtest.Running, n newcomer, got *identityv1.JoinHubResponse) {
	t.Helper()
	source, err := mtls.NewSource(mtls.Certificate(got.GetCertificateChain(), n.key), got.GetTrust().GetCaBundle())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := adminv1.NewFleetServiceClient(h.Dial(t, source)).ListHubs(t.Context(), &adminv1.ListHubsRequest{Local: true}); err != nil {
		t.Errorf("with the certificate of %s: %v", n.GetHub(), err)
	}
	by := h.Domain.AuthorityFor(t, n.issuer, got.GetIssuerChain())
	operator := h.Domain.SourceOf(t, by, identity.Operator, "admin")
	if _, err := adminv1.NewFleetServiceClient(h.Dial(t, operator)).ListTokens(t.Context(), &adminv1.ListTokensRequest{}); err != nil {
		t.Errorf("as an operator with a certificate of the issuing CA of %s: %v", n.GetHub(), err)
	}
}

// A hub is admitted through any hub of the ring and whoever leads. hub1 has the keys,
// hub2 leads, and hub5 has neither.
func TestAHubJoinsThroughAnyHubWhoeverLeads(t *testing.T) {
	d, hub2 := failedOver(t)
	hub1 := restarted(t, d, hub2, admits(t, d))
	hub5 := hub2.Follower(t, "hub5")
	for i, h := range []*hubtest.Running{hub1, hub2, hub5} {
		token := hubToken(t, h, 1)
		n := joining(t, d, token, fmt.Sprintf("new%d", i))
		if i > 0 {
			n.RequestId = "" // it gets one
		}
		got, err := admit(t, h, n)
		if err != nil {
			t.Fatalf("through hub %d: %v", i, err)
		}
		works(t, hub2, n, got)
		if spent := used(t, h, token); spent != 1 {
			t.Errorf("through hub %d: the join spent %d uses", i, spent)
		}
		if url := got.GetStoreUrl(); url != "consul://127.0.0.1:8500/meshkit" {
			t.Errorf("through hub %d: the log is said to be at %q", i, url)
		}
	}
	joined := logged(t, d, state.KindHubJoined)
	if len(joined) != 3 {
		t.Fatalf("%d hubs joined by the log", len(joined))
	}
	for i, e := range joined {
		if want := fmt.Sprintf("spiffe://%s/hub/new%d", hubtest.Name, i); e.GetAuthor() != want {
			t.Errorf("entry %d is of %s, not of %s", i, e.GetAuthor(), want)
		}
		// The hubs call each other as "meshhub/NAME".
		if from := e.GetOrigin(); !strings.HasPrefix(from, "127.0.0.1:") || !strings.Contains(from, " hubtest") {
			t.Errorf("entry %d comes from %q", i, from)
		}
	}
	if hub1.Leads() || !hub2.Leads() {
		t.Error("another hub leads now")
	}
}

// A hub that reads the log late knows the token all the same.
func TestATokenOfAMomentAgoAdmitsAHub(t *testing.T) {
	d, hub2 := failedOver(t)
	var late atomic.Bool
	d.Wrap = func(driver store.Driver) store.Driver {
		return &storetest.Faults{Driver: driver, OnRead: func(_ context.Context, _ uint64, _ int, next func() (store.Page, error)) (store.Page, error) {
			if late.Load() {
				time.Sleep(150 * time.Millisecond)
			}
			return next()
		}}
	}
	hub1 := restarted(t, d, hub2, admits(t, d))
	late.Store(true)
	n := joining(t, d, hubToken(t, hub2, 1), "hub4")
	if _, err := admit(t, hub1, n); err != nil {
		t.Error(err)
	}
}

// Who guesses tokens has the store asked as often as he may be wrong, and a token that is
// known not at all.
func TestGuessedTokensHaveTheStoreAskedSeldom(t *testing.T) {
	const guesses = 60
	d, hub2 := failedOver(t)
	var asked atomic.Int32
	d.Wrap = func(driver store.Driver) store.Driver {
		return &storetest.Faults{Driver: driver, OnRead: func(_ context.Context, after uint64, _ int, next func() (store.Page, error)) (store.Page, error) {
			if after == math.MaxUint64 { // where the log ends
				asked.Add(1)
			}
			return next()
		}}
	}
	hub1 := restarted(t, d, hub2, admits(t, d), func(o *hub.Options) { o.Replica.Probe = time.Hour })
	token := hubToken(t, hub2, 1)
	comesAbout(t, "hub1 knows the token", func() bool { return seqOf(t, hub1) >= seqOf(t, hub2) })
	id, _, _ := strings.Cut(token, ".")
	for _, guess := range []string{id + ".guess", "unknown.guess"} {
		client := identityv1.NewIdentityServiceClient(hub1.Dial(t, nil))
		n := joining(t, d, guess, "hub4")
		before, limited := asked.Load(), 0
		for range guesses {
			switch _, err := client.JoinHub(t.Context(), n.JoinHubRequest); fault.CodeOf(err) {
			case fault.CodeRateLimited:
				limited++
			case fault.CodeTokenInvalid:
			default:
				t.Fatalf("a guess: %v", err)
			}
		}
		if got := asked.Load() - before; got > guesses/4 || strings.HasPrefix(guess, id) && got > 0 || limited == 0 {
			t.Errorf("%d guesses of %q: the store was asked %d times; %d of them were held up", guesses, guess, got, limited)
		}
	}
	if _, err := admit(t, hub1, joining(t, d, token, "hub4")); err != nil {
		t.Errorf("who has a token and comes from the same address: %v", err)
	}
}

// Who asked and got no answer asks any hub again, and spends no second use.
func TestAJoinWhoseAnswerWasLostIsRepeatedThroughAnyHub(t *testing.T) {
	d, hub2 := failedOver(t)
	hub1 := restarted(t, d, hub2, admits(t, d))
	hub5 := hub2.Follower(t, "hub5")
	token := hubToken(t, hub2, 2)
	n := joining(t, d, token, "hub4")
	for i, h := range []*hubtest.Running{hub5, hub1, hub2, hub5} {
		got, err := admit(t, h, n)
		if err != nil {
			t.Fatalf("try %d: %v", i+1, err)
		}
		works(t, hub2, n, got)
	}
	if spent := used(t, hub2, token); spent != 1 {
		t.Errorf("the join spent %d uses", spent)
	}
	other := joining(t, d, token, "hub6")
	other.RequestId = n.GetRequestId()
	_, err := admit(t, hub5, other)
	wantCode(t, err, fault.CodeRequestIDReused)
}

// Without a hub that has the keys and answers nobody is admitted, and who asks is told
// which hub to start.
func TestWhoCannotAdmitAHubSaysWhoCan(t *testing.T) {
	d, hub2 := failedOver(t)
	token := hubToken(t, hub2, 1)
	n := joining(t, d, token, "hub4")
	_, err := admit(t, hub2, n)
	wantCode(t, err, fault.CodeNoHubCA)
	if fix := fault.RemedyOf(err); !strings.Contains(fix, "Start hub hub1 (127.0.0.1:") || !strings.Contains(fix, "keys/keyset.key, ca/hubs.key") {
		t.Errorf("while hub1 is away: %q", fix)
	}
	// hub1 runs and was relieved of its keys.
	hub1 := restarted(t, d, hub2)
	_, err = admit(t, hub2, n)
	if wantCode(t, err, fault.CodeNoHubCA); !strings.Contains(fault.RemedyOf(err), "from your safe") {
		t.Errorf("while hub1 has no keys: %q", fault.RemedyOf(err))
	}
	if err := hub1.Stop(); err != nil {
		t.Fatal(err)
	}
	if spent := used(t, hub2, token); spent != 0 {
		t.Errorf("nobody was admitted, and %d uses are spent", spent)
	}
	restarted(t, d, hub2, admits(t, d))
	if _, err := admit(t, hub2, n); err != nil {
		t.Errorf("once hub1 is back with its keys: %v", err)
	}
}

// The key of the hub CA alone is not enough: whoever has both is asked.
func TestAHubThatLacksTheKeysetKeyHandsAJoinOn(t *testing.T) {
	d, hub2 := failedOver(t)
	restarted(t, d, hub2, admits(t, d))
	half := hub2.Follower(t, "hub5", admits(t, d))
	n := joining(t, d, hubToken(t, half, 1), "hub4")
	if _, err := admit(t, half, n); err != nil {
		t.Errorf("through the hub without the keyset key: %v", err)
	}
}

// A join that was handed on is not handed on again: hubs that take each other for the
// one with the keys must not go on for ever.
func TestAJoinIsHandedOnOnce(t *testing.T) {
	d, hub2 := failedOver(t)
	restarted(t, d, hub2, admits(t, d))
	n := joining(t, d, hubToken(t, hub2, 1), "hub4")
	ctx := metadata.AppendToOutgoingContext(t.Context(), "meshkit-forwarded", "1", "meshkit-forwarded-address", "192.0.2.7:1234")
	from := identityv1.NewIdentityServiceClient(hub2.Dial(t, d.Source(t, identity.Hub, "hub3")))
	_, err := from.JoinHub(ctx, n.JoinHubRequest)
	wantCode(t, err, fault.CodeNoHubCA)
	if _, err := from.JoinHub(t.Context(), n.JoinHubRequest); err != nil {
		t.Errorf("as a call of its own: %v", err)
	}
}

// counted are keys of which it is counted how often that of the keyset is opened.
type counted struct {
	*hubtest.Keys
	keyset atomic.Int32
}

func (c *counted) Open(ctx context.Context, name string) (crypto.Signer, error) {
	if name == keyring.KeysetKey {
		c.keyset.Add(1)
	}
	return c.Keys.Open(ctx, name)
}

// Joins that come together do not make each other's keysets void: each is prepared once as
// a rule, whichever hub hands it on.
func TestJoinsThatComeTogetherWaitTheirTurn(t *testing.T) {
	const joins = 12
	d, hub2 := failedOver(t)
	keys := &counted{Keys: d.Keys}
	hub1 := restarted(t, d, hub2, admits(t, d), func(o *hub.Options) { o.Keys = keys })
	token := hubToken(t, hub2, joins)
	var wg sync.WaitGroup
	for i := range joins {
		n := joining(t, d, token, fmt.Sprintf("new%d", i))
		via := []*hubtest.Running{hub1, hub2}[i%2]
		client := identityv1.NewIdentityServiceClient(via.Dial(t, nil))
		wg.Go(func() {
			if _, err := client.JoinHub(t.Context(), n.JoinHubRequest); err != nil {
				t.Errorf("new%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := keys.keyset.Load(); n >= 2*joins { // a hub that reads the log late may need two
		t.Errorf("%d keysets were made for %d joins", n, joins)
	}
}

// Joins go on when the keyset changes meanwhile, and when the leader goes away.
func TestJoinsThatComeTogetherAreAllDone(t *testing.T) {
	const joins = 6
	d, hub2 := failedOver(t)
	hub1 := restarted(t, d, hub2, admits(t, d))
	hub5 := hub2.Follower(t, "hub5")
	token := hubToken(t, hub2, 2*joins)
	together := func(prefix string, beside func()) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, joins)
		for i := range joins {
			n := joining(t, d, token, fmt.Sprintf("%s%d", prefix, i))
			via := []*hubtest.Running{hub1, hub5}[i%2]
			client := identityv1.NewIdentityServiceClient(via.Dial(t, nil))
			wg.Go(func() { _, errs[i] = client.JoinHub(t.Context(), n.JoinHubRequest) })
		}
		beside()
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("%s%d: %v", prefix, i, err)
			}
		}
	}
	together("one", func() {})
	together("two", func() {
		if err := hub2.Stop(); err != nil {
			t.Error(err)
		}
	})
	if spent := used(t, hub1, token); spent != 2*joins {
		t.Errorf("%d joins spent %d uses", 2*joins, spent)
	}
}

// certified is a join with certificates, as one that is repeated is handed to the leader.
func certified(t *testing.T, d *hubtest.Domain, n newcomer) *identityv1.AdmitHubRequest {
	t.Helper()
	id := identity.ID{Domain: hubtest.Name, Kind: identity.Hub, Name: n.GetHub()}
	above, chain := d.HubCA(t)
	issuer, err := ca.IssueIntermediate(t.Context(), above, id, n.GetIssuerCsr(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &identityv1.AdmitHubRequest{
		Join: n.JoinHubRequest, RequestId: n.GetRequestId(), CertificateChain: leafOf(t, d.Authority, n.GetHub(), n.GetCsr(), "localhost", hubtest.Name),
		IssuerChain: append([][]byte{issuer}, chain...),
	}
}

// prepared is a join as the hub with the keys hands it to the leader.
func prepared(t *testing.T, d *hubtest.Domain, leader *hubtest.Running, n newcomer) *identityv1.AdmitHubRequest {
	t.Helper()
	in := certified(t, d, n)
	in.Keyset, in.CaBundle = listing(t, d, leader, n, nil), d.Authority.Bundle()
	return in
}

// admitPrepared hands a join to the leader, as a hub that is listed and has no keys of
// the domain.
func admitPrepared(t *testing.T, leader *hubtest.Running, in *identityv1.AdmitHubRequest) error {
	t.Helper()
	conn := leader.Dial(t, leader.Domain.Source(t, identity.Hub, "hub3"))
	_, err := identityv1.NewIdentityServiceClient(conn).AdmitHub(t.Context(), in)
	return err
}

// leafOf issues a hub's certificate.
func leafOf(t *testing.T, by *ca.Authority, hub string, csr []byte, names ...string) [][]byte {
	t.Helper()
	id := identity.ID{Domain: hubtest.Name, Kind: identity.Hub, Name: hub}
	cert, err := by.Issue(t.Context(), ca.Request{CSR: csr, ID: id, DNSNames: names, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Chain
}

// listing makes the keyset after the one in force, with a newcomer's key; adjust may
// change more.
func listing(t *testing.T, d *hubtest.Domain, leader *hubtest.Running, n newcomer, adjust func(*trust.KeysetEdit), by ...*sign.Signer) []byte {
	t.Helper()
	shown, err := operate(t, leader).trust.GetTrust(t.Context(), &adminv1.GetTrustRequest{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.ParsePublicKey(n.GetConfigKey())
	if err != nil {
		t.Fatal(err)
	}
	if len(by) == 0 {
		signer, err := sign.Open(t.Context(), d.Keys, keyring.KeysetKey)
		if err != nil {
			t.Fatal(err)
		}
		by = append(by, signer)
	}
	edit := trust.KeysetEdit{Add: map[string][]sign.PublicKey{n.GetHub(): {key}}, Expires: time.Now().Add(keyring.KeysetLifetime)}
	if adjust != nil {
		adjust(&edit)
	}
	keyset, err := trust.EditKeyset(shown.GetMetadata().GetKeyset(), edit, by...)
	if err != nil {
		t.Fatal(err)
	}
	return keyset
}

// The leader believes of a join that another hub hands it what is signed, and nothing
// else: a listed hub without the keys admits nobody.
func TestTheLeaderChecksAJoinThatAnotherHubPrepared(t *testing.T) {
	d, hub2 := failedOver(t)
	token := hubToken(t, hub2, 1)
	n := joining(t, d, token, "hub4")
	another := joining(t, d, token, "hub6")
	stranger, err := sign.Create(t.Context(), hubtest.NewKeys(), "config", sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	good := prepared(t, d, hub2, n)
	early := listing(t, d, hub2, n, nil)
	list(t, hub2, "hub7") // the keyset moves on
	spent := hubToken(t, hub2, 1)
	if err := admitPrepared(t, hub2, prepared(t, d, hub2, joining(t, d, spent, "first"))); err != nil {
		t.Fatalf("a join that is as it should be: %v", err)
	}
	good.Keyset = listing(t, d, hub2, n, nil)
	for name, tc := range map[string]struct {
		spoil func(*identityv1.AdmitHubRequest)
		want  fault.Code
	}{
		"a spent token": {func(r *identityv1.AdmitHubRequest) {
			late := joining(t, d, spent, "second")
			proto.Reset(r)
			proto.Merge(r, prepared(t, d, hub2, late))
		}, fault.CodeTokenUsed},
		"a token that nobody made": {func(r *identityv1.AdmitHubRequest) {
			proto.Reset(r)
			proto.Merge(r, prepared(t, d, hub2, joining(t, d, strings.Split(token, ".")[0]+".guess", "hub4")))
		}, fault.CodeTokenInvalid},
		"another hub's proof": {func(r *identityv1.AdmitHubRequest) { r.Join.ConfigProof = another.GetConfigProof() }, fault.CodeBadRequest},
		"another request id":  {func(r *identityv1.AdmitHubRequest) { r.RequestId = "another" }, fault.CodeBadRequest},
		"no request id":       {func(r *identityv1.AdmitHubRequest) { r.RequestId, r.Join.RequestId = "", "" }, fault.CodeBadRequest},
		"a keyset with one more key": {func(r *identityv1.AdmitHubRequest) {
			r.Keyset = listing(t, d, hub2, n, func(e *trust.KeysetEdit) { e.Add["hub9"] = []sign.PublicKey{stranger.Public()} })
		}, fault.CodeJoinRefused},
		"a keyset with one more key of the hub": {func(r *identityv1.AdmitHubRequest) {
			r.Keyset = listing(t, d, hub2, n, func(e *trust.KeysetEdit) { e.Add["hub4"] = append(e.Add["hub4"], stranger.Public()) })
		}, fault.CodeJoinRefused},
		"a keyset that drops a hub": {func(r *identityv1.AdmitHubRequest) {
			r.Keyset = listing(t, d, hub2, n, func(e *trust.KeysetEdit) { e.DropHubs = []string{"hub7"} })
		}, fault.CodeJoinRefused},
		"a keyset that ends earlier": {func(r *identityv1.AdmitHubRequest) {
			r.Keyset = listing(t, d, hub2, n, func(e *trust.KeysetEdit) { e.Expires = time.Now().Add(time.Hour) })
		}, fault.CodeJoinRefused},
		"a keyset for another hub": {func(r *identityv1.AdmitHubRequest) { r.Keyset = listing(t, d, hub2, another, nil) }, fault.CodeJoinRefused},
		"a keyset that the keyset key did not sign": {func(r *identityv1.AdmitHubRequest) {
			r.Keyset = listing(t, d, hub2, n, nil, stranger)
		}, fault.CodeKeysetUnsigned},
		"a keyset that follows an earlier one": {func(r *identityv1.AdmitHubRequest) { r.Keyset = early }, fault.CodeKeysetMoved},
		"no keyset":                            {func(r *identityv1.AdmitHubRequest) { r.Keyset, r.CaBundle = nil, nil }, fault.CodeKeysetMoved},
		"another bundle":                       {func(r *identityv1.AdmitHubRequest) { r.CaBundle = hubtest.NewDomain(t).Authority.Bundle() }, fault.CodeCABundleMismatch},
		"a certificate for another hub": {func(r *identityv1.AdmitHubRequest) {
			r.CertificateChain = leafOf(t, d.Authority, "hub6", another.GetCsr(), "localhost", hubtest.Name)
		}, fault.CodeJoinRefused},
		"a certificate for another key": {func(r *identityv1.AdmitHubRequest) {
			r.CertificateChain = leafOf(t, d.Authority, "hub4", joining(t, d, token, "hub4").GetCsr(), "localhost", hubtest.Name)
		}, fault.CodeJoinRefused},
		"a certificate with one more name": {func(r *identityv1.AdmitHubRequest) {
			r.CertificateChain = leafOf(t, d.Authority, "hub4", n.GetCsr(), "localhost", hubtest.Name, "hub1")
		}, fault.CodeJoinRefused},
		"a certificate of another domain's CA": {func(r *identityv1.AdmitHubRequest) {
			r.CertificateChain = leafOf(t, hubtest.NewDomain(t).Authority, "hub4", n.GetCsr(), "localhost", hubtest.Name)
		}, fault.CodeJoinRefused},
		"a certificate of a hub that is not listed": {func(r *identityv1.AdmitHubRequest) {
			r.CertificateChain = leafOf(t, d.AuthorityOf(t, "hub8"), "hub4", n.GetCsr(), "localhost", hubtest.Name)
		}, fault.CodeHubDropped},
		"no certificate": {func(r *identityv1.AdmitHubRequest) { r.CertificateChain = nil }, fault.CodeJoinRefused},
		"an issuing CA for another hub": {func(r *identityv1.AdmitHubRequest) {
			r.IssuerChain = prepared(t, d, hub2, another).GetIssuerChain()
		}, fault.CodeJoinRefused},
		"a certificate for an issuing CA": {func(r *identityv1.AdmitHubRequest) { r.IssuerChain = r.GetCertificateChain() }, fault.CodeJoinRefused},
		"no issuing CA":                   {func(r *identityv1.AdmitHubRequest) { r.IssuerChain = nil }, fault.CodeJoinRefused},
	} {
		req := proto.CloneOf(good)
		tc.spoil(req)
		if err := admitPrepared(t, hub2, req); fault.CodeOf(err) != tc.want {
			t.Errorf("%s: %v (%s), want %s", name, err, fault.CodeOf(err), tc.want)
		}
	}
	if n := used(t, hub2, token); n != 0 {
		t.Errorf("joins that were refused spent %d uses", n)
	}
	if err := admitPrepared(t, hub2, good); err != nil {
		t.Errorf("the join itself: %v", err)
	}
	var joined logv1.HubJoined
	entries := logged(t, d, state.KindHubJoined)
	if err := proto.Unmarshal(entries[len(entries)-1].GetPayload(), &joined); err != nil || len(entries) != 2 || joined.GetHub() != "hub4" {
		t.Errorf("%d hubs joined, the last is %s (%v)", len(entries), joined.GetHub(), err)
	}
}

// An earlier answer that is handed in once more does not take the place of the one that
// the hub has.
func TestCertificatesOfAnEarlierAnswerDoNotComeBack(t *testing.T) {
	d, hub2 := failedOver(t)
	n := joining(t, d, hubToken(t, hub2, 1), "hub4")
	d.CASkew.Store(-int64(30 * time.Second))
	first := prepared(t, d, hub2, n)
	if err := admitPrepared(t, hub2, first); err != nil {
		t.Fatal(err)
	}
	d.CASkew.Store(0)
	if err := admitPrepared(t, hub2, certified(t, d, n)); err != nil {
		t.Errorf("a second answer: %v", err)
	}
	wantCode(t, admitPrepared(t, hub2, first), fault.CodeJoinRefused)
}

// Only hubs that stand hand joins to the leader.
func TestOnlyHubsHandPreparedJoinsIn(t *testing.T) {
	d, hub2 := failedOver(t)
	req := prepared(t, d, hub2, joining(t, d, hubToken(t, hub2, 1), "hub4"))
	as := func(s *mtls.Source) error {
		_, err := identityv1.NewIdentityServiceClient(hub2.Dial(t, s)).AdmitHub(t.Context(), req)
		return err
	}
	wantCode(t, as(nil), fault.CodeNoClientCert)
	wantCode(t, as(d.Source(t, identity.Operator, "admin")), fault.CodeNotPermitted)
	wantCode(t, as(d.Source(t, identity.Node, "node-a")), fault.CodeNotPermitted)
	wantCode(t, as(d.Source(t, identity.Hub, "hub9")), fault.CodeHubDropped)
}
