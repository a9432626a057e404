package admin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/forward"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
)

// Trust implements adminv1.TrustServiceServer.
type Trust struct {
	adminv1.UnimplementedTrustServiceServer
	*base
	within bool // the hub itself calls
}

// NewTrust makes the service for calls from within the hub.
func NewTrust(opt Options) *Trust { return &Trust{base: &base{Options: opt}, within: true} }

// GetTrust implements adminv1.TrustServiceServer.
func (s *Trust) GetTrust(context.Context, *adminv1.GetTrustRequest) (*adminv1.GetTrustResponse, error) {
	f := s.Keys.Current()
	if f == nil {
		return nil, fault.New(fault.CodeHubStarting, "the hub is still reading its log")
	}
	root := f.Anchors.Root()
	out := &adminv1.GetTrustResponse{
		Metadata: f.Anchors.Metadata(0, 0), RootVersion: root.Version, RootThreshold: uint32(root.Threshold), RootExpiresAt: timestamppb.New(root.Expires),
		KeysetVersion: f.Anchors.KeysetVersion(), KeysetExpiresAt: timestamppb.New(f.Anchors.KeysetExpires()), CaPin: s.CAPin, RootKeyIds: root.KeyIDs,
	}
	for _, h := range f.Anchors.Hubs() {
		out.HubKeys = append(out.HubKeys, &adminv1.HubKey{Hub: h.Hub, KeyId: h.KeyID, Algorithm: string(h.Algorithm)})
	}
	return out, nil
}

func (s *Trust) caller(ctx context.Context, method, id string, content proto.Message) (keyring.Caller, error) {
	r, err := requestOf(ctx, method, id, content)
	return keyring.Caller{Author: r.Author, Origin: r.Origin, RequestID: r.id, Traceparent: r.traceparent, Fingerprint: r.fingerprint}, err
}

// RotateHubKey implements adminv1.TrustServiceServer. Which hub it is makes the request.
func (s *Trust) RotateHubKey(ctx context.Context, in *adminv1.RotateHubKeyRequest) (*adminv1.RotateHubKeyResponse, error) {
	c, err := s.rotation(ctx, in, s.Hub)
	if err != nil {
		return nil, err
	}
	if _, err := s.current(); err != nil {
		return nil, err
	}
	out, err := s.Keys.Rotate(ctx, s.Replica, c, s.Views.Resign)
	if fault.CodeOf(err) == fault.CodeRequestIDReused {
		return nil, cmp.Or(s.rotatedElsewhere(ctx, in), err)
	}
	return out, err
}

func (s *Trust) rotation(ctx context.Context, in *adminv1.RotateHubKeyRequest, hub string) (keyring.Caller, error) {
	return s.caller(ctx, "rotate hub key", in.GetRequestId(), wrapperspb.String(hub))
}

// rotatedElsewhere names the hub whose key the request rotated, if it did one's.
func (s *Trust) rotatedElsewhere(ctx context.Context, in *adminv1.RotateHubKeyRequest) error {
	st := s.Replica.Current().State
	done, ok := st.Request(in.GetRequestId())
	if !ok {
		return nil
	}
	for h := range st.Hubs() {
		if c, err := s.rotation(ctx, in, h.GetHub()); err == nil && bytes.Equal(c.Fingerprint, done.GetFingerprint()) {
			return fault.New(fault.CodeRotatedElsewhere, "request id %q rotated the key of hub %s, as entry %d, and none of hub %s, which answers", in.GetRequestId(), h.GetHub(), done.GetSeq(), s.Hub).
				WithRemedy("That rotation is done. To be told of it again, ask hub %s: `meshctl --hub %s key rotate --request-id …`; to rotate the key of hub %s, leave --request-id away.", h.GetHub(), h.GetAddress(), s.Hub)
		}
	}
	return nil
}

// DropHubKey implements adminv1.TrustServiceServer.
func (s *Trust) DropHubKey(ctx context.Context, in *adminv1.DropHubKeyRequest) (*adminv1.DropHubKeyResponse, error) {
	if err := text("reason", in.GetReason()); err != nil {
		return nil, err
	}
	c, err := s.caller(ctx, "drop hub key", "", in)
	if err != nil {
		return nil, err
	}
	version, err := s.Keys.DropHub(ctx, s.Replica, c, in.GetHub(), in.GetReason())
	if err != nil {
		return nil, err
	}
	return &adminv1.DropHubKeyResponse{KeysetVersion: version}, nil
}

// PublishTrust implements adminv1.TrustServiceServer.
func (s *Trust) PublishTrust(ctx context.Context, in *adminv1.PublishTrustRequest) (*adminv1.PublishTrustResponse, error) {
	if err := text("reason", in.GetReason()); err != nil {
		return nil, err
	}
	if len(in.GetMetadata().GetRoots()) == 0 && len(in.GetMetadata().GetKeyset()) == 0 {
		return nil, fault.New(fault.CodeBadRequest, "the request holds neither root nor keyset metadata")
	}
	if n := len(in.GetFingerprint()); n != 0 && n != sha256.Size {
		return nil, fault.New(fault.CodeBadRequest, "fingerprint: %d bytes, not %d", n, sha256.Size)
	}
	// It says what the log has of another request: a hub does, to answer that one.
	if len(in.GetFingerprint()) > 0 && !s.within && !forward.Forwarded(ctx) {
		return nil, fault.New(fault.CodeNotPermitted, "fingerprint: %s publishes for no other request: only hubs do, that forward one", access.CallerOf(ctx).Author)
	}
	content := proto.CloneOf(in)
	content.RequestId, content.Fingerprint = "", nil
	c, err := s.caller(ctx, "publish trust", in.GetRequestId(), content)
	if err != nil {
		return nil, err
	}
	if len(in.GetFingerprint()) > 0 {
		c.Fingerprint = in.GetFingerprint()
	}
	anchors, err := s.Keys.Publish(ctx, s.Replica, c, in.GetMetadata(), in.GetReason())
	if err != nil {
		return nil, err
	}
	return &adminv1.PublishTrustResponse{RootVersion: anchors.RootVersion(), KeysetVersion: anchors.KeysetVersion()}, nil
}
