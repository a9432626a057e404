package client

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Selection says which resources a list or watch is about. Empty fields select
// all.
type Selection struct {
	Kind, Namespace, Selector string
}

// Get gives one resource; its error is of kind NotFound when there is none.
func (c *Client) Get(ctx context.Context, key *adminv1.Key) (*adminv1.Resource, error) {
	resp, err := call(ctx, c, read, c.resources.Get, &adminv1.GetRequest{Key: key})
	if err != nil {
		return nil, err
	}
	return resp.GetResource(), nil
}

// List gives all resources of a selection, reading page after page.
func (c *Client) List(ctx context.Context, s Selection) ([]*adminv1.Resource, error) {
	var out []*adminv1.Resource
	req := &adminv1.ListRequest{Kind: s.Kind, Namespace: s.Namespace, Selector: s.Selector}
	for {
		resp, err := call(ctx, c, read, c.resources.List, req)
		if err != nil {
			return nil, err
		}
		out = append(out, resp.GetResources()...)
		if resp.GetNextPageToken() == "" {
			return out, nil
		}
		req.PageToken = resp.GetNextPageToken()
	}
}

// Watch calls f for what exists, then for a SYNCED event, then for each change,
// until ctx ends, f returns an error, or the stream breaks.
func (c *Client) Watch(ctx context.Context, s Selection, f func(*adminv1.WatchResponse) error) error {
	return receive(ctx, c, c.resources.Watch, &adminv1.WatchRequest{Kind: s.Kind, Namespace: s.Namespace, Selector: s.Selector}, f)
}

// Plan validates a change and says what it would do; it changes nothing.
func (c *Client) Plan(ctx context.Context, change *adminv1.Change) (*adminv1.PlanResponse, error) {
	return call(ctx, c, read, c.resources.Plan, &adminv1.PlanRequest{Change: change})
}

// Apply commits a change, whole or not at all. req.RequestId must be set: a
// repeat with the same id is committed at most once. An error of kind Unknown
// means that it may or may not be committed.
func (c *Client) Apply(ctx context.Context, req *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
	return call(ctx, c, keyed, c.resources.Apply, req)
}

// Undo commits the inverse of an earlier change, as Apply does.
func (c *Client) Undo(ctx context.Context, req *adminv1.UndoRequest) (*adminv1.UndoResponse, error) {
	return call(ctx, c, keyed, c.resources.Undo, req)
}

// History gives the newest changes first; key may be nil for all.
func (c *Client) History(ctx context.Context, key *adminv1.Key, limit uint32) ([]*adminv1.HistoryEntry, error) {
	resp, err := call(ctx, c, read, c.resources.History, &adminv1.HistoryRequest{Key: key, Limit: limit})
	if err != nil {
		return nil, err
	}
	return resp.GetEntries(), nil
}

// Simulate asks what a request would meet in the live state.
func (c *Client) Simulate(ctx context.Context, req *adminv1.SimulateRequest) (*adminv1.SimulateResponse, error) {
	return call(ctx, c, read, c.resources.Simulate, req)
}

// receive runs a server stream through f. A stream that ends well ends receive
// without an error. Of several hubs the next is asked when one is starting.
func receive[Req, Resp any](ctx context.Context, c *Client, open func(context.Context, *Req, ...grpc.CallOption) (grpc.ServerStreamingClient[Resp], error), req *Req, f func(*Resp) error) error {
	for others := strings.Count(c.hub, ","); ; others-- {
		got, err := receiveOnce(ctx, c, open, req, f)
		if got || others <= 0 || !errors.Is(err, fault.CodeHubStarting) {
			return err
		}
	}
}

// receiveOnce opens the stream once; got tells whether anything came of it.
func receiveOnce[Req, Resp any](ctx context.Context, c *Client, open func(context.Context, *Req, ...grpc.CallOption) (grpc.ServerStreamingClient[Resp], error), req *Req, f func(*Resp) error) (got bool, _ error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // releases the stream when f gives up
	stream, err := open(ctx, req)
	if err != nil {
		return false, c.explain(err, read, false)
	}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, c.explain(err, read, true)
		}
		got = true
		if err := f(msg); err != nil {
			return got, err
		}
	}
}
