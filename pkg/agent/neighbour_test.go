package agent_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/resource"
)

// TestAnotherNodesCertificateCanOnlyRead: with it one gets the content from the
// loopback port, and what one says of it changes nothing on this node.
func TestAnotherNodesCertificateCanOnlyRead(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	a.stop()
	cfg.Probation.Period = resource.Duration(2 * time.Second)
	cfg.Probation.MaxLostClient = 1
	a = start(t, cfg)
	anyone := func(identity.ID) error { return nil }
	other := follow(t, a.endpoints.Listen, credentials.NewTLS(mtls.ClientConfig(h.ca.source(identity.Node, "other"), anyone)), "other")
	v2 := content(map[string]int{"a": 2})
	h.publish(2, v2)
	other.await(t, 2)
	other.client.Nack(&controlv1.Nack{Epoch: 1, Version: 2, Digest: v2.Root().Bytes(), Code: "X1", Message: "I do not like it"})
	h.awaitAck(2, true) // a nack would fail it

	own := follow(t, a.endpoints.Listen, credentials.NewTLS(mtls.ClientConfig(h.ca.source(identity.Node, "n1"), anyone)), "n1")
	v3 := content(map[string]int{"a": 3})
	h.publish(3, v3)
	own.await(t, 3)
	own.client.Nack(&controlv1.Nack{Epoch: 1, Version: 3, Digest: v3.Root().Bytes(), Code: "X1", Message: "cannot bind"})
	h.awaitNack(fault.CodeDataPlaneRefused)
}
