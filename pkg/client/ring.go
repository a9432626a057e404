package client

import (
	"context"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
)

// TransferLeadership has the leader hand over to another hub.
func (c *Client) TransferLeadership(ctx context.Context, to, requestID string) (*adminv1.TransferLeadershipResponse, error) {
	return call(ctx, c, keyed, c.ring.TransferLeadership, &adminv1.TransferLeadershipRequest{To: to, RequestId: requestID})
}

// SetDrained has a hub give up its streams and leadership, or take them again.
func (c *Client) SetDrained(ctx context.Context, hub string, drained bool, requestID string) (*adminv1.SetDrainedResponse, error) {
	return call(ctx, c, keyed, c.ring.SetDrained, &adminv1.SetDrainedRequest{Hub: hub, Drained: drained, RequestId: requestID})
}

// CreateDomain makes a domain on the hubs of this one; req.RequestId must be set.
func (c *Client) CreateDomain(ctx context.Context, req *adminv1.CreateDomainRequest) (*adminv1.CreateDomainResponse, error) {
	return call(ctx, c, keyed, c.domains.CreateDomain, req)
}
