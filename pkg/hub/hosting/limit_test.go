package hosting

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/ca/catest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/identity"
)

// TestAHubWithAllItsDomainsMakesAndJoinsNoMore has no program: whatever would be made is
// a nil pointer.
func TestAHubWithAllItsDomainsMakesAndJoinsNoMore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "domains")
	x := New(Options{Domain: "own", Name: "hub", Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	for i := range maxDomains {
		x.guests[fmt.Sprintf("domain-%d", i)] = &guest{}
	}
	ann, err := identity.New("guest", identity.Operator, "ann")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(catest.Key(t), ann)
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.Create(t.Context(), admin.NewDomain{Domain: "guest", RequestID: "r", Operator: "ann", Author: "ann", CSR: csr})
	if fault.CodeOf(err) != fault.CodeRequestTooLarge {
		t.Errorf("create: %v", err)
	}
	err = x.Adopt(t.Context(), &adminv1.AdoptDomainRequest{Domain: "guest", Token: "token"})
	if fault.CodeOf(err) != fault.CodeRequestTooLarge {
		t.Errorf("adopt: %v", err)
	}
	if left, err := os.ReadDir(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is left (%v)", left, err)
	}
}
