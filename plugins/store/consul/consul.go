// Package consul keeps a domain's log in the key/value store of a Consul
// datacenter, so that several hubs make one ring.
//
//	d, err := consul.Open(consul.Config{Address: "127.0.0.1:8501", Prefix: "meshkit", Domain: "eu-west"})
//	log, err := store.Open(ctx, d, store.Options{})
//
// Keys, under <prefix>/<domain>/:
//
//	head                      checked JSON of type head: end of the log, newest lease
//	leader                    the lock; its value names the holder
//	log/<seq>                 the entry, and those of the same append that follow it; or
//	                          the name of the chunks of a large one
//	chunk/<seq>/<sha256>/<n>  a part of an entry beyond inlineBytes
//	blob/<key>                parts of snapshots
//	filling                   there while a backup is restored; without head, what lies
//	                          beside it is then not a log
//
// where <seq> and <n> are decimal with leading zeros. Every write to head is a
// compare-and-set in a transaction that first checks that the leader key is
// locked by the writer's session: Consul itself refuses a hub that lost the
// lease, whatever the clocks say, which is why the lock-delay can be 0.
//
// The session ends with the Consul agent's node (serf health), with the health
// check of this hub's leader loop (HTTP, every second), and after its TTL of
// 10 s, whichever is first. Each Driver registers a service instance of its own,
// so that a hub that was killed and started again does not keep alive the
// session that its predecessor left.
//
// Reads are linearizable: one read-only transaction in consistent mode gives the
// head, the lock and the entries of one moment. Wait is a blocking query on the
// head alone: what Consul sends does not grow with the log.
//
// Consul does not bound how late a request may arrive, and answers some failures
// after the write was done. Only a transaction that says that it was rolled
// back, and a connection that could not be made, are known not to have written.
package consul

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// Config says which log to open and how Consul is reached. ParseURL makes one
// from a consul:// URL.
type Config struct {
	// Address of the Consul agent, host:port.
	Address string
	// TLS, if not nil, has the agent spoken to over https.
	TLS *TLS
	// Token is the ACL token. TokenFile, if set, counts instead, and must hold one from
	// the start, for its owner alone; it is read again for every request, so that a token
	// can be replaced without a restart. With neither, the environment's
	// CONSUL_HTTP_TOKEN counts.
	Token     string
	TokenFile string
	// Logger is told when TokenFile cannot be read any more; nil: nobody is.
	Logger *slog.Logger
	// Datacenter, Namespace and Partition; empty means the agent's own.
	Datacenter string
	Namespace  string
	Partition  string
	// Prefix of all keys, without slashes at its ends; empty means "meshkit".
	Prefix string
	// Domain is the name of the log.
	Domain string
	// CheckListen is where the agent's health check reaches this hub, host:port;
	// empty means a free port of 127.0.0.1, for an agent on the same machine.
	CheckListen string
	// Timeout of one request that Consul should answer at once; 0 means 3 s.
	Timeout time.Duration
}

// Root is the path of the domain's keys, with a slash at its end.
func (c Config) Root() string {
	return cmp.Or(strings.Trim(c.Prefix, "/"), "meshkit") + "/" + c.Domain + "/"
}

// TLS names the files of a TLS connection to the agent.
type TLS struct {
	CA, Cert, Key string
	// ServerName, if set, is expected in the agent's certificate.
	ServerName string
}

// Driver implements store.Driver, store.Blobs, store.Limited, store.Placed, store.Probed and
// store.Reporting.
type Driver struct {
	cfg    Config
	client *api.Client
	http   *http.Client
	root   string // <prefix>/<domain>/

	// ctx ends with Close; its cause is CodeStoreClosed.
	ctx   context.Context
	close context.CancelCauseFunc
	wg    sync.WaitGroup

	mu    sync.Mutex // guards all below
	lease *lease     // held by this Driver
	head  versioned  // the newest that is known, for the next compare-and-set
	found versioned  // the one that the last Read found: Wait goes on from there
	ends  uint64     // the newest entry that Read or Wait saw: Read asks for no more
	start uint64     // the first entry in its key
	alive func(context.Context) error
	// onCampaign is told how a campaign goes.
	onCampaign func(error)
	check      *check // the registered service instance, once there is one
	token      string // the last one that was read from TokenFile
	// tokenFailed is what was wrong with TokenFile when it was read last.
	tokenFailed error
	told        string // the one that the agent was given with the service instance
	// orphans are sessions that could not be destroyed, the newest last.
	orphans []string
	// toSweep is what the newest trim left to be deleted; sweeping: a goroutine does it.
	toSweep  *behind
	sweeping bool
}

// Open gives a driver for one log. Consul is not asked yet: what is wrong with
// the connection shows in the first call.
func Open(cfg Config) (*Driver, error) {
	if cfg.Domain == "" || cfg.Address == "" {
		return nil, fault.New(fault.CodeConfig, "open Consul store: an address and a domain are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.TokenFile != "" {
		token, err := readToken(cfg.TokenFile)
		if err != nil {
			return nil, err
		}
		cfg.Token = token
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 3 * time.Second
	}
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		// Blocking queries hold a connection each: of the log, of the lock, of a campaign.
		// The agent is next to the hub: packing what it sends costs both more than it saves.
		DisableCompression:  true,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 5 * time.Second,
	}
	c := api.DefaultConfigWithLogger(nil)
	*c = api.Config{
		Address: cfg.Address, Scheme: "http", Token: cfg.Token, Datacenter: cfg.Datacenter,
		Namespace: cfg.Namespace, Partition: cfg.Partition, Transport: transport,
	}
	if cfg.TLS != nil {
		conf, err := api.SetupTLSConfig(&api.TLSConfig{
			Address: cfg.TLS.ServerName, CAFile: cfg.TLS.CA, CertFile: cfg.TLS.Cert, KeyFile: cfg.TLS.Key,
		})
		if err != nil {
			return nil, fault.New(fault.CodeConfig, "open Consul store: TLS: %w", err)
		}
		if files := *cfg.TLS; files.Cert != "" {
			// Read for each connection: a certificate is renewed without a restart.
			conf.Certificates = nil
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
				return &pair, err
			}
		}
		c.Scheme, transport.TLSClientConfig = "https", conf
	}
	c.HttpClient = &http.Client{Transport: transport}
	client, err := api.NewClient(c)
	if err != nil {
		return nil, fault.New(fault.CodeConfig, "open Consul store: %w", err)
	}
	d := &Driver{cfg: cfg, client: client, http: c.HttpClient, root: cfg.Root(), token: cfg.Token}
	d.alive = func(context.Context) error { return nil }
	d.onCampaign = func(error) {}
	d.ctx, d.close = context.WithCancelCause(context.Background())
	return d, nil
}

// Limits implements store.Limited: a transaction takes 64 operations (newer
// servers take 128) and 512 KiB, in base64.
func (d *Driver) Limits() store.Limits {
	return store.Limits{BatchRecords: packEntries, BatchBytes: batchBytes, RecordBytes: recordBytes}
}

// Probe implements store.Probed: alive says whether the hub's loop of the leader
// runs; Consul asks it every second.
func (d *Driver) Probe(alive func(context.Context) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alive = alive
}

// Close implements store.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	l := d.lease
	d.mu.Unlock()
	if d.ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.Timeout)
	defer cancel()
	if l != nil {
		// Failing that, the session ends with the check.
		_ = l.Release(ctx)
	}
	d.deregister(ctx)
	d.mu.Lock() // who starts a goroutine holds it, too
	d.close(fault.New(fault.CodeStoreClosed, "the store is closed"))
	d.mu.Unlock()
	d.wg.Wait()
	d.http.CloseIdleConnections()
	return nil
}

// call derives the context of one operation: it ends with ctx, with the driver,
// and after the timeout, if that is not 0.
func (d *Driver) call(ctx context.Context, doing string, timeout time.Duration) (context.Context, context.CancelFunc, error) {
	if d.ctx.Err() != nil {
		return nil, nil, fault.New(fault.CodeStoreClosed, "%s: the store is closed", doing)
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(d.ctx, func() { cancel(context.Cause(d.ctx)) })
	var timer *time.Timer
	if timeout > 0 {
		timer = time.AfterFunc(timeout, func() {
			cancel(fault.New(fault.CodeStoreUnavailable, "Consul at %s did not answer within %s", d.cfg.Address, timeout))
		})
	}
	return ctx, func() {
		stop()
		if timer != nil {
			timer.Stop()
		}
		cancel(nil)
	}, nil
}

func (d *Driver) query(ctx context.Context, consistent bool) *api.QueryOptions {
	q := &api.QueryOptions{RequireConsistent: consistent, Token: d.currentToken()}
	return q.WithContext(ctx)
}

func (d *Driver) write(ctx context.Context) *api.WriteOptions {
	w := &api.WriteOptions{Token: d.currentToken()}
	return w.WithContext(ctx)
}

// retell tells the agent of the service instance again once there is another token:
// the agent reports the check's state to the servers with the one that it was given.
func (d *Driver) retell(ctx context.Context) error {
	token := d.currentToken()
	d.mu.Lock()
	c := d.check
	known := d.told == token
	d.mu.Unlock()
	if c == nil || known {
		return nil
	}
	return d.tell(ctx, c.registration)
}

// failure classifies an error of a request. wrote says that the request could
// have written something.
func (d *Driver) failure(ctx context.Context, doing string, wrote bool, err error) error {
	err = plain(err)
	switch {
	case d.ctx.Err() != nil && !wrote:
		return fault.New(fault.CodeStoreClosed, "%s: the store is closed", doing)
	case notSent(err):
		return d.unreachable(doing, err)
	case ctx.Err() != nil && wrote:
		return fmt.Errorf("%s: the outcome is not known: %v: %w", doing, context.Cause(ctx), ctx.Err())
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	if refused := d.refused(doing, err); refused != nil {
		return refused
	}
	if wrote {
		return fmt.Errorf("%s: the outcome is not known: %w", doing, err)
	}
	if fault.CodeOf(err) == fault.CodeStoreUnavailable {
		return fmt.Errorf("%s: %w", doing, err) // ours, and says that it is Consul
	}
	if strings.Contains(err.Error(), "No cluster leader") {
		return fault.New(fault.CodeStoreUnavailable, "%s: Consul has no leader: %w", doing, err).
			WithRemedy("Most of Consul's servers are down or cannot reach each other: `consul operator raft list-peers -stale`. Hubs go on by themselves once a leader is elected.")
	}
	return fault.New(fault.CodeStoreUnavailable, "%s: Consul: %w", doing, err)
}

// plain is an error of a request without its method and URL, which are the client's
// business.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// notSent tells that no connection was made, so that nothing was sent.
func notSent(err error) bool {
	var op *net.OpError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	// "remote error" is a TLS alert: the agent refused the handshake.
	return errors.As(err, &op) && (op.Op == "dial" || op.Op == "remote error") || errors.As(err, &verify) || errors.As(err, &record) ||
		strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// unreachable says why no connection to the agent came about, and what to look at.
func (d *Driver) unreachable(doing string, err error) error {
	var dns *net.DNSError
	var verify *tls.CertificateVerificationError
	var op *net.OpError
	f := fault.New(fault.CodeStoreUnavailable, "%s: Consul at %s cannot be reached: %w", doing, d.cfg.Address, err)
	switch {
	case errors.As(err, &dns):
		return f.WithRemedy("The name in store.url does not resolve: correct it, or mend the name service (`getent hosts %s`).", dns.Name)
	case errors.As(err, &verify):
		return f.WithRemedy("Consul's certificate is not one that `ca` in store.url leads to, is for another name (`server-name`), or has expired: `openssl s_client -connect %s`.", d.cfg.Address)
	case errors.As(err, &op) && op.Op == "dial":
		return f.WithRemedy("Start the Consul agent, or correct host and port in store.url; hubs serve streams from memory meanwhile.")
	}
	return f.WithRemedy("Hub and Consul do not agree on TLS: check port, `tls`, `ca`, `cert` and `key` in store.url against the agent's settings; its certificate or the hub's may have expired.")
}

const tokenRemedy = "Put a token with the policy of docs/runbooks/consul.md into the file that token-file in store.url names; it is read again by itself."

// refused tells an answer by which Consul did nothing; nil if it is another error.
func (d *Driver) refused(doing string, err error) error {
	text := strings.TrimSpace(err.Error())
	var status api.StatusError
	switch forbidden := errors.As(err, &status) && status.Code == http.StatusForbidden; {
	case forbidden, strings.Contains(text, "ACL not found"), strings.Contains(text, "Permission denied"):
		if problem := d.tokenProblem(); problem != nil {
			return fault.New(fault.CodeStoreUnavailable, "%s: Consul refuses the ACL token: %s; %w", doing, text, problem).
				WithRemedy("%s", fault.RemedyOf(problem))
		}
		return fault.New(fault.CodeStoreUnavailable, "%s: Consul refuses the ACL token: %s", doing, text).
			WithRemedy(tokenRemedy)
	case strings.Contains(text, "No path to datacenter"):
		return fault.New(fault.CodeStoreUnavailable, "%s: Consul knows no datacenter %q: %s", doing, d.cfg.Datacenter, text).
			WithRemedy("Correct dc in store.url; `consul members -wan` lists the datacenters.")
	}
	return nil
}
