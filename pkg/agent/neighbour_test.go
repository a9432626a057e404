package agent_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/wire"
)

// TestOnlyTheNodesOwnCertificateIsServed: a hub can forget another node or give it
// another view, and this node's agent would not know.
func TestOnlyTheNodesOwnCertificateIsServed(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	cfg.Probation.Period = resource.Duration(time.Hour)
	a := start(t, cfg)
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, false)
	anyone := func(identity.ID) error { return nil }
	for name, source := range map[string]*mtls.Source{
		"another node":                 h.ca.source(identity.Node, "other"),
		"a hub":                        h.ca.source(identity.Hub, "n1"),
		"an operator of the same name": h.ca.source(identity.Operator, "n1"),
	} {
		t.Run(name, func(t *testing.T) {
			creds := grpc.WithTransportCredentials(credentials.NewTLS(mtls.ClientConfig(source, anyone)))
			conn, err := grpc.NewClient("passthrough:///"+a.endpoints.Listen, append(wire.DialOptions(wire.DialConfig{}), creds)...)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			stream, err := controlv1.NewControlServiceClient(conn).Stream(ctx)
			for err == nil {
				var m *controlv1.StreamResponse
				if m, err = stream.Recv(); err == nil && m.GetNotice() == nil {
					t.Fatalf("served %T", m.GetMessage())
				}
			}
			if got := fault.CodeOf(wire.FromStatus(err)); got != fault.CodeDenied {
				t.Fatalf("served, or refused for another reason: %v", err)
			}
		})
	}

	own := follow(t, a.endpoints.Listen, credentials.NewTLS(mtls.ClientConfig(h.ca.source(identity.Node, "n1"), anyone)), "n1")
	v2 := content(map[string]int{"a": 2})
	h.publish(2, v2)
	own.await(t, 2)
	own.client.Nack(&controlv1.Nack{Epoch: 1, Version: 2, Digest: v2.Root().Bytes(), Code: "X1", Message: "cannot bind"})
	h.awaitNack(fault.CodeDataPlaneRefused)
}
