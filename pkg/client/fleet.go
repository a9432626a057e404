package client

import (
	"context"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
)

// Domain describes the domain and the hub that answers.
func (c *Client) Domain(ctx context.Context) (*adminv1.GetDomainResponse, error) {
	return call(ctx, c, read, c.fleet.GetDomain, &adminv1.GetDomainRequest{})
}

// Agents gives every agent whose labels fit the selector.
func (c *Client) Agents(ctx context.Context, selector string) ([]*adminv1.Agent, error) {
	var out []*adminv1.Agent
	req := &adminv1.ListAgentsRequest{Selector: selector}
	for {
		resp, err := call(ctx, c, read, c.fleet.ListAgents, req)
		if err != nil {
			return nil, err
		}
		out = append(out, resp.GetAgents()...)
		if resp.GetNextPageToken() == "" {
			return out, nil
		}
		req.PageToken = resp.GetNextPageToken()
	}
}

// Agent describes one agent.
func (c *Client) Agent(ctx context.Context, node string) (*adminv1.GetAgentResponse, error) {
	return call(ctx, c, read, c.fleet.GetAgent, &adminv1.GetAgentRequest{Node: node})
}

// ForgetAgent frees a node name; its certificate is refused from then on.
func (c *Client) ForgetAgent(ctx context.Context, node, reason string) (*adminv1.ForgetAgentResponse, error) {
	return call(ctx, c, once, c.fleet.ForgetAgent, &adminv1.ForgetAgentRequest{Node: node, Reason: reason})
}

// WatchPropagation calls f with how far a version has got, until it has
// reached every connected agent that it concerns.
func (c *Client) WatchPropagation(ctx context.Context, version uint64, f func(*adminv1.WatchPropagationResponse) error) error {
	return receive(ctx, c, c.fleet.WatchPropagation, &adminv1.WatchPropagationRequest{Version: version}, f)
}

// Hubs gives the hubs of the domain.
func (c *Client) Hubs(ctx context.Context) ([]*adminv1.Hub, error) {
	resp, err := call(ctx, c, read, c.fleet.ListHubs, &adminv1.ListHubsRequest{})
	if err != nil {
		return nil, err
	}
	return resp.GetHubs(), nil
}

// CreateToken makes a join token; req.RequestId must be set.
func (c *Client) CreateToken(ctx context.Context, req *adminv1.CreateTokenRequest) (*adminv1.CreateTokenResponse, error) {
	return call(ctx, c, keyed, c.fleet.CreateToken, req)
}

// Tokens gives the join tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]*adminv1.Token, error) {
	resp, err := call(ctx, c, read, c.fleet.ListTokens, &adminv1.ListTokensRequest{})
	if err != nil {
		return nil, err
	}
	return resp.GetTokens(), nil
}

// RevokeToken makes a token useless.
func (c *Client) RevokeToken(ctx context.Context, id string) (*adminv1.RevokeTokenResponse, error) {
	return call(ctx, c, once, c.fleet.RevokeToken, &adminv1.RevokeTokenRequest{Id: id})
}

// Trust gives the trust metadata and what it says.
func (c *Client) Trust(ctx context.Context) (*adminv1.GetTrustResponse, error) {
	return call(ctx, c, read, c.trust.GetTrust, &adminv1.GetTrustRequest{})
}

// RotateHubKey gives the answering hub a new config key. It is sent once: a second try
// might come to another hub.
func (c *Client) RotateHubKey(ctx context.Context, requestID string) (*adminv1.RotateHubKeyResponse, error) {
	return call(ctx, c, once, c.trust.RotateHubKey, &adminv1.RotateHubKeyRequest{RequestId: requestID})
}

// DropHubKey removes a hub's key from the keyset.
func (c *Client) DropHubKey(ctx context.Context, hub, reason string) (*adminv1.DropHubKeyResponse, error) {
	return call(ctx, c, once, c.trust.DropHubKey, &adminv1.DropHubKeyRequest{Hub: hub, Reason: reason})
}

// PublishTrust installs metadata signed elsewhere.
func (c *Client) PublishTrust(ctx context.Context, req *adminv1.PublishTrustRequest) (*adminv1.PublishTrustResponse, error) {
	return call(ctx, c, once, c.trust.PublishTrust, req)
}
