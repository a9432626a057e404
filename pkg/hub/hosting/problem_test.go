package hosting

import (
	"context"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
)

// What mends a further domain is what its own hub says, not what its code says in general.
func TestAFurtherDomainsProblemKeepsItsRemedy(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	cause := fault.New(fault.CodeReadOnly, "the log went back").WithRemedy("Do not restart hubs that still run.")
	h.Health().Add("a", func(context.Context) error { return cause })
	g := &guest{}
	g.set(h.Hub, nil)
	err := g.problem(t.Context())
	if fault.CodeOf(err) != cause.Code || fault.RemedyOf(err) != cause.Remedy {
		t.Errorf("%v: code %s, remedy %q, want %s and %q", err, fault.CodeOf(err), fault.RemedyOf(err), cause.Code, cause.Remedy)
	}
}
