package change

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/jcs"
)

// planFormat marks a plan file.
const planFormat = "meshkit.dev/plan/v1"

// planFile is a saved plan: exactly the change that `apply --plan` will make,
// and the state it stands on.
type planFile struct {
	Format    string    `json:"format"`
	Domain    string    `json:"domain"`
	Base      uint64    `json:"base"`
	Epoch     uint64    `json:"epoch"`
	CreatedAt time.Time `json:"createdAt"`
	Change    planned   `json:"change"`
	// Digest is "sha256:" and the hex SHA-256 of the canonical JSON of the file
	// without this field.
	Digest string `json:"digest,omitempty"`
}

type planned struct {
	Resources        []json.RawMessage `json:"resources"`
	Deletes          []resource.Key    `json:"deletes,omitempty"`
	Prune            bool              `json:"prune,omitempty"`
	FieldManager     string            `json:"fieldManager,omitempty"`
	ForceConflicts   bool              `json:"forceConflicts,omitempty"`
	AllowLargeChange bool              `json:"allowLargeChange,omitempty"`
	Message          string            `json:"message,omitempty"`
}

// savePlan writes the plan of a change, mode 0600: it may hold what the
// resources hold.
func savePlan(path, domain string, now time.Time, change *adminv1.Change, plan *adminv1.PlanResponse) error {
	f := planFile{Format: planFormat, Domain: domain, Base: plan.GetBase(), Epoch: plan.GetEpoch(), CreatedAt: now.UTC().Truncate(time.Second), Change: planned{
		Resources: []json.RawMessage{}, Prune: change.GetPrune(), FieldManager: change.GetFieldManager(), ForceConflicts: change.GetForceConflicts(),
		AllowLargeChange: change.GetAllowLargeChange(), Message: change.GetMessage(),
	}}
	for _, r := range change.GetResources() {
		f.Change.Resources = append(f.Change.Resources, r)
	}
	for _, k := range change.GetDeletes() {
		f.Change.Deletes = append(f.Change.Deletes, cliutil.KeyOf(k))
	}
	var err error
	if f.Digest, err = f.digest(); err != nil {
		return err
	}
	data, err := cliutil.MarshalJSON(f)
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	if data, err = cliutil.IndentJSON(data); err != nil {
		return err
	}
	if err := durable.WriteFile(durable.OS, path, append(data, '\n'), 0o600); err != nil {
		return fault.New(fault.CodeIO, "save plan: %w", err)
	}
	return nil
}

func (f planFile) digest() (string, error) {
	f.Digest = ""
	canonical, err := jcs.Marshal(f)
	if err != nil {
		return "", fmt.Errorf("encode plan: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// loadPlan reads a plan file and checks that it is as it was saved.
func loadPlan(path string) (*planFile, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.CodePlanFile, "plan file %s does not exist", path)
	}
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read plan: %w", err)
	}
	var f planFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fault.New(fault.CodePlanFile, "plan file %s is not JSON: %v", path, err)
	}
	if f.Format != planFormat {
		return nil, fault.New(fault.CodePlanFile, "plan file %s has format %q, not %q", path, f.Format, planFormat)
	}
	want, err := f.digest()
	if err != nil {
		return nil, fault.New(fault.CodePlanFile, "plan file %s: %w", path, err)
	}
	if f.Digest != want {
		return nil, fault.New(fault.CodePlanFile, "plan file %s was altered after it was saved: its content has digest %s, it states %s", path, want, f.Digest)
	}
	return &f, nil
}

// change is what the plan applies: on its base, or not at all.
func (f *planFile) change() (*adminv1.Change, error) {
	c := &adminv1.Change{Prune: f.Change.Prune, FieldManager: f.Change.FieldManager, ForceConflicts: f.Change.ForceConflicts,
		AllowLargeChange: f.Change.AllowLargeChange, Message: f.Change.Message, Base: f.Base}
	for _, raw := range f.Change.Resources {
		content, err := jcs.Canonicalize(raw)
		if err != nil {
			return nil, fault.New(fault.CodePlanFile, "plan file: %w", err)
		}
		c.Resources = append(c.Resources, content)
	}
	for _, k := range f.Change.Deletes {
		c.Deletes = append(c.Deletes, cliutil.WireKey(k))
	}
	return c, nil
}
