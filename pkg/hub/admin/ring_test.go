package admin

import (
	"context"
	"errors"
	"strings"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/hub/peers"
)

// Two hubs, each of which awaits the agents that are with the other.
func TestWhomOneHubAwaitsAnotherMayHave(t *testing.T) {
	hub := func(connected, acked uint64, answered bool) *adminv1.WatchPropagationResponse {
		return &adminv1.WatchPropagationResponse{Version: 7, Connected: connected, Concerned: acked, Acked: acked, Answered: answered}
	}
	for name, c := range map[string]struct {
		joined int
		all    []*adminv1.WatchPropagationResponse
		done   bool
	}{
		"all are somewhere":     {5, []*adminv1.WatchPropagationResponse{hub(2, 2, true), hub(3, 3, true)}, true},
		"one is nowhere":        {6, []*adminv1.WatchPropagationResponse{hub(2, 2, true), hub(3, 3, true)}, false},
		"one is outstanding":    {5, []*adminv1.WatchPropagationResponse{hub(2, 2, true), hub(3, 2, false)}, false},
		"an older hub answered": {5, []*adminv1.WatchPropagationResponse{hub(2, 2, true), {Version: 7, Connected: 3}}, false},
	} {
		if out := mergeProgress(7, c.joined, c.all, nil); out.GetDone() != c.done {
			t.Errorf("%s: done is %v", name, out.GetDone())
		}
	}
}

// A hub that lost a domain's log needs no token, but its log.
func TestAHubThatSaysWhyItDoesNotServeADomainIsNotSaidToHaveToJoin(t *testing.T) {
	refused := errors.New("authentication handshake failed: it does not serve domain eu-north: peer spiffe://eu-west/hub/hub2 is not of domain")
	for why, want := range map[string]string{
		"the log went back to nothing": "cannot serve domain eu-north: the log went back to nothing",
		"":                             "does not serve domain eu-north. Make it a token",
	} {
		f := &Fleet{base: &base{Options: Options{Domain: "eu-north", Address: func() string { return "10.0.0.1:8443" }, WhyNot: func(context.Context, string) string { return why }}}}
		if got := f.silence(t.Context(), peers.Peer{Hub: "hub2"}, refused); !strings.HasPrefix(got, want) {
			t.Errorf("it says %q: %s, want %s", why, got, want)
		}
	}
}
