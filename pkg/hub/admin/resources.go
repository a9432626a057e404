package admin

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/change"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/hub/ssa"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/state"
)

// Resources implements adminv1.ResourceServiceServer.
type Resources struct {
	adminv1.UnimplementedResourceServiceServer
	*base
	tables tables
}

// Get implements adminv1.ResourceServiceServer.
func (s *Resources) Get(_ context.Context, in *adminv1.GetRequest) (*adminv1.GetResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	k := change.KeyOf(in.GetKey())
	k.Kind = kindName(k.Kind)
	r, ok := cur.State.Get(k)
	if !ok {
		return nil, fault.New(fault.CodeNoSuchResource, "%s does not exist in domain %s", k, s.Domain)
	}
	out, err := wireResource(r)
	if err != nil {
		return nil, err
	}
	return &adminv1.GetResponse{Resource: out}, nil
}

// kindName accepts plurals and abbreviations too.
func kindName(name string) string {
	if d, ok := kind.Lookup(name); ok {
		return d.Kind
	}
	return name
}

func wireResource(r *state.Resource) (*adminv1.Resource, error) {
	owners, err := ssa.Owners(r.Key.Kind, r.Content, r.Ownership)
	if err != nil {
		return nil, fault.New(fault.CodeInternal, "field ownership of %s: %w", r.Key, err)
	}
	out := &adminv1.Resource{
		Kind: r.Key.Kind, Namespace: r.Key.Namespace, Name: r.Key.Name, Content: r.Content, Generation: r.Generation,
		ResourceVersion: r.Version, CreatedAt: timestamppb.New(r.CreatedAt), UpdatedAt: timestamppb.New(r.UpdatedAt),
	}
	for _, o := range owners {
		out.Owners = append(out.Owners, &adminv1.FieldOwner{Manager: o.Manager, Fields: o.Fields})
	}
	return out, nil
}

// filter is what List and Watch select by.
type filter struct {
	kind, namespace string
	selector        selector
}

func filterOf(kind, namespace, text string) (filter, error) {
	sel, err := parseSelector(text)
	return filter{kind: kindName(kind), namespace: namespace, selector: sel}, err
}

func (f filter) matches(cur *replica.Current, k resource.Key) bool {
	if f.kind != "" && k.Kind != f.kind || f.namespace != "" && k.Namespace != f.namespace {
		return false
	}
	if len(f.selector) == 0 {
		return true
	}
	o, ok := cur.Graph.Get(k)
	return ok && f.selector.matches(o.Resource.Metadata.Labels)
}

// maxListBytes bounds the content of one page.
const maxListBytes = 16 << 20

// List implements adminv1.ResourceServiceServer.
func (s *Resources) List(_ context.Context, in *adminv1.ListRequest) (*adminv1.ListResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	f, err := filterOf(in.GetKind(), in.GetNamespace(), in.GetSelector())
	if err != nil {
		return nil, err
	}
	from, err := fromPageToken(in.GetPageToken())
	if err != nil {
		return nil, err
	}
	out := &adminv1.ListResponse{Seq: cur.State.Seq()}
	size, bytes := pageSize(in.GetPageSize()), 0
	for r := range cur.State.Resources(f.kind, from) {
		if !f.matches(cur, r.Key) {
			continue
		}
		if len(out.Resources) == size || bytes > maxListBytes {
			out.NextPageToken = pageToken(r.Key.String())
			break
		}
		w, err := wireResource(r)
		if err != nil {
			return nil, err
		}
		bytes += len(w.GetContent())
		out.Resources = append(out.Resources, w)
	}
	return out, nil
}

// Watch implements adminv1.ResourceServiceServer. A watcher that is slow gets the
// difference between what it was last sent and the newest state: nothing is
// queued for it.
func (s *Resources) Watch(in *adminv1.WatchRequest, stream grpc.ServerStreamingServer[adminv1.WatchResponse]) error {
	f, err := filterOf(in.GetKind(), in.GetNamespace(), in.GetSelector())
	if err != nil {
		return err
	}
	if _, err := s.current(); err != nil {
		return err
	}
	cur, changed := s.Replica.Watch()
	for r := range cur.State.Resources(f.kind, "") {
		if f.matches(cur, r.Key) {
			if err := sendUpsert(stream, cur, r); err != nil {
				return err
			}
		}
	}
	if err := stream.Send(&adminv1.WatchResponse{Event: adminv1.WatchResponse_EVENT_SYNCED, Seq: cur.State.Seq()}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		case <-s.Stopping:
			return s.stopping()
		case <-changed:
		}
		before := cur
		cur, changed = s.Replica.Watch()
		if err := s.sendDifference(stream, f, before, cur); err != nil {
			return err
		}
	}
}

func sendUpsert(stream grpc.ServerStreamingServer[adminv1.WatchResponse], cur *replica.Current, r *state.Resource) error {
	w, err := wireResource(r)
	if err != nil {
		return err
	}
	return stream.Send(&adminv1.WatchResponse{Event: adminv1.WatchResponse_EVENT_UPSERT, Resource: w, Seq: cur.State.Seq()})
}

func (s *Resources) sendDifference(stream grpc.ServerStreamingServer[adminv1.WatchResponse], f filter, before, cur *replica.Current) error {
	for c := range digest.Diff(before.State.Trie(), cur.State.Trie()) {
		k, err := resource.ParseKey(c.Key)
		if err != nil {
			return fault.New(fault.CodeInternal, "watch: %w", err)
		}
		was, is := c.Before != nil && f.matches(before, k), c.After != nil && f.matches(cur, k)
		r, ok := cur.State.Get(k)
		switch {
		case is && ok:
			err = sendUpsert(stream, cur, r)
		case was:
			err = stream.Send(&adminv1.WatchResponse{
				Event: adminv1.WatchResponse_EVENT_DELETE, Seq: cur.State.Seq(),
				Resource: &adminv1.Resource{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name},
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
