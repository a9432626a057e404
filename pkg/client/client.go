// Package client is the admin API for Go programs: meshctl, the TUI, automation.
// It dials a hub over mutual TLS, maps every failure to a fault, retries what
// may be retried, and says honestly when the outcome of a write is not known.
//
//	c, err := client.Dial(client.Config{Hub: "127.0.0.1:8443", CAFile: …, CertFile: …, KeyFile: …})
//	defer c.Close()
//	routes, err := c.List(ctx, client.Selection{Kind: "Route"})
//
// Reads are retried while the hub is unavailable. Writes that carry a request
// id are retried with the same id, which the hub commits at most once; other
// writes are sent once. All methods are safe for concurrent use and end with
// their context.
package client

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// attempts is how often a call is tried in all, and retry how long the waits
// between are: about 2 s together. A read is not tried again after readPatience: the
// hub has waited for its store already.
const (
	attempts     = 4
	readPatience = 2 * time.Second
)

var retry = backoff.Policy{Base: 100 * time.Millisecond, Cap: time.Second}

// Client talks to one hub of a domain at a time.
type Client struct {
	hub       string
	conn      grpc.ClientConnInterface
	closeConn func() error
	resources adminv1.ResourceServiceClient
	fleet     adminv1.FleetServiceClient
	trust     adminv1.TrustServiceClient
	store     adminv1.StoreServiceClient
	ring      adminv1.RingServiceClient
	domains   adminv1.DomainServiceClient
	identity  identityv1.IdentityServiceClient
	policy    backoff.Policy
	patience  time.Duration // readPatience
}

// New makes a client over a connection that the caller owns. The connection
// should have been made with StatsHandler, without which a lost connection is
// always taken to have lost it after sending.
func New(hub string, conn grpc.ClientConnInterface) *Client {
	return &Client{
		hub: hub, conn: conn, policy: retry, patience: readPatience,
		resources: adminv1.NewResourceServiceClient(conn),
		fleet:     adminv1.NewFleetServiceClient(conn),
		trust:     adminv1.NewTrustServiceClient(conn),
		ring:      adminv1.NewRingServiceClient(conn),
		domains:   adminv1.NewDomainServiceClient(conn),
		store:     adminv1.NewStoreServiceClient(conn),
		identity:  identityv1.NewIdentityServiceClient(conn),
	}
}

// Hub is the address that the client talks to, or those, separated by commas, that it may
// talk to.
func (c *Client) Hub() string { return c.hub }

// Close ends the connection that Dial made.
func (c *Client) Close() error {
	if c.closeConn == nil {
		return nil
	}
	return c.closeConn()
}

// manner says how a call may be repeated.
type manner int

const (
	read  manner = iota // changes nothing
	keyed               // a write with a request id
	once                // a write without one, or to one hub
)

// call makes one unary call in the given manner and maps its error.
func call[Req, Resp any](ctx context.Context, c *Client, m manner, f func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) (Resp, error) {
	waits, began := backoff.New(c.policy), time.Now()
	var lost error // an earlier try was sent and not answered: later silence does not undo it
	for try := 1; ; try++ {
		var sent atomic.Bool
		resp, err := f(context.WithValue(ctx, sentKey{}, &sent), req)
		if err == nil {
			return resp, nil
		}
		err = c.explain(err, m, sent.Load())
		switch fault.KindOf(err) {
		case fault.Unknown:
			lost = err
		case fault.Unavailable, fault.Unauthenticated:
			if lost != nil {
				err = lost
			}
		}
		if try == attempts || !repeatable(err, m) || m == read && time.Since(began) > c.patience || waits.Wait(ctx) != nil {
			if lost != nil && err != lost {
				err = &afterLoss{err, lost}
			}
			return resp, err
		}
	}
}

// afterLoss is how a call ended of which an earlier try has an unknown outcome.
type afterLoss struct {
	error
	lost error
}

func (e *afterLoss) Unwrap() error { return e.error }

// EarlierTry gives what became of an earlier try of the call that ended with err, if its
// outcome is not known; nil: there was none such. As a rule what a hub says later of the
// same request id holds for that one too.
func EarlierTry(err error) error {
	var after *afterLoss
	if errors.As(err, &after) {
		return after.lost
	}
	return nil
}

func repeatable(err error, m manner) bool {
	kind := fault.KindOf(err)
	return m != once && (kind == fault.Unavailable || kind == fault.Unknown)
}

// fromHub tells a hub's own "unavailable" — it answered, and did nothing — from
// that of the connection.
func fromHub(err error) bool { return fault.CodeOf(err) != fault.CodeNoConnection }

// explain turns what gRPC says into a fault that says what the caller needs:
// was anything sent, is it the network, or trust.
func (c *Client) explain(err error, m manner, sent bool) error {
	err = wire.FromStatus(err)
	switch fault.KindOf(err) {
	case fault.Unavailable, fault.Timeout, fault.Unknown:
	default:
		return err
	}
	if fault.KindOf(err) == fault.Unavailable && fromHub(err) {
		return err
	}
	if sent && m != read {
		return fault.New(fault.CodeOutcomeUnknown, "%s: lost after the request was sent: %w", named(c.hub), err)
	}
	if fault.KindOf(err) != fault.Unavailable {
		if fault.KindOf(err) == fault.Timeout && !sent {
			return unreachable(c.hub, "no connection before the deadline")
		}
		return err
	}
	text := err.Error()
	if strings.Contains(text, "tls: ") || strings.Contains(text, "x509: ") || strings.Contains(text, "spiffe") {
		return fault.New(fault.CodeHandshake, "%s: %s", named(c.hub), wire.HandshakeReason(text))
	}
	return unreachable(c.hub, wire.DialReason(text))
}

type sentKey struct{}

// StatsHandler notes for each call whether its request reached a connection,
// which tells "not sent" from "outcome unknown". Dial installs it.
func StatsHandler() stats.Handler { return sentHandler{} }

type sentHandler struct{}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutPayload); !ok {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentHandler) HandleConn(context.Context, stats.ConnStats)                       {}
