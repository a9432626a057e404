package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

// applied is what the tests read of `apply -o json`.
type applied struct {
	Seq      uint64 `json:"seq"`
	Replayed bool   `json:"replayed"`
}

// TestASetIsAppliedWholeOrNotAtAll lets the hub refuse one of two files that are
// each valid by themselves.
func TestASetIsAppliedWholeOrNotAtAll(t *testing.T) {
	s := sharedSite(t)
	s.unchanged(t)
	dir := filepath.Dir(s.write(t, "whole/a.yaml", clusterYAML("whole-a", "10.0.0.1:80")))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	conflict := s.write(t, "whole/b.yaml", "apiVersion: meshkit.dev/v1\nkind: Route\nmetadata:\n  name: rival\nspec:\n  service: checkout\n  rules:\n    - name: all\n      clusters:\n        - name: whole-a\n")
	wantRefused(t, s.Run("meshctl", "apply", "-f", dir), 65, fault.CodeRouteConflict, conflict+":8:7", "Route/default/checkout")
	if r := s.Run("meshctl", "get", "cluster", "whole-a"); r.Code != 5 {
		t.Errorf("half of a refused set was applied: exit %d\n%s", r.Code, r.Stdout)
	}
}

// TestARetriedApplyIsCommittedOnce retries by request id, sequentially, at the same
// instant, and with other content.
func TestARetriedApplyIsCommittedOnce(t *testing.T) {
	s := sharedSite(t)
	file := s.write(t, "retry.yaml", clusterYAML("retried", "10.0.0.1:80"))
	var first, again applied
	s.JSON(&first, "apply", "-f", file, "--request-id", "retry-1")
	s.JSON(&again, "apply", "-f", file, "--request-id", "retry-1")
	if first.Seq == 0 || again.Seq != first.Seq || first.Replayed || !again.Replayed {
		t.Errorf("first %+v, again %+v", first, again)
	}
	other := s.write(t, "retry-other.yaml", clusterYAML("retried", "10.0.0.2:80"))
	wantRefused(t, s.Run("meshctl", "apply", "-f", other, "--request-id", "retry-1"), 65, fault.CodeRequestIDReused, "retry-1")

	const callers = 8
	seqs := make([]uint64, callers)
	var wg sync.WaitGroup
	for i := range callers {
		api := resources(t, s.hub)
		ctx := limited(t)
		wg.Go(func() {
			resp, err := api.Apply(ctx, &adminv1.ApplyRequest{RequestId: "retry-2", Change: &adminv1.Change{Resources: [][]byte{clusterJSON("at-once", "10.0.0.3:80")}}})
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
			seqs[i] = resp.GetSeq()
		})
	}
	wg.Wait()
	if slices.Min(seqs) == 0 || slices.Min(seqs) != slices.Max(seqs) {
		t.Errorf("one request sent %d times at once was committed as %v", callers, seqs)
	}
}

// TestASavedPlanIsRefusedOnceTheBaseHasMoved is `plan --save` then `apply --plan`
// with someone else's change in between.
func TestASavedPlanIsRefusedOnceTheBaseHasMoved(t *testing.T) {
	s := sharedSite(t)
	plan := s.Path("moved.plan")
	s.Ctl("plan", "-f", s.write(t, "planned.yaml", clusterYAML("planned", "10.0.0.1:80")), "--save", plan)
	s.Ctl("apply", "-f", s.write(t, "meanwhile.yaml", clusterYAML("meanwhile", "10.0.0.2:80")))
	s.unchanged(t)
	wantRefused(t, s.Run("meshctl", "apply", "--plan", plan), 6, fault.CodeBaseMoved)

	data, err := os.ReadFile(plan)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"altered":   strings.Replace(string(data), "10.0.0.1", "10.6.6.6", 1),
		"truncated": string(data[:len(data)/2]),
		"garbage":   "\x00\x1b[2J",
		"empty":     "",
	} {
		if text == string(data) {
			t.Fatalf("the plan %s is the plan", name)
		}
		wantRefused(t, s.Run("meshctl", "apply", "--plan", s.write(t, "bad.plan", text)), 65, "", "bad.plan")
	}
}

// TestALargeRemovalNeedsToBeMeant removes most of a kind, by delete and by prune.
func TestALargeRemovalNeedsToBeMeant(t *testing.T) {
	s := sharedSite(t)
	var text strings.Builder
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("cluster/many-%d", i))
		text.WriteString("---\n" + clusterYAML(fmt.Sprintf("many-%d", i), "10.0.0.1:80"))
	}
	many := s.write(t, "many.yaml", text.String())
	s.Ctl("apply", "-f", many, "--field-manager", "bulk")
	var history list[struct {
		Seq uint64 `json:"seq"`
	}]
	s.JSON(&history, "history")
	s.Ctl("apply", "-f", s.write(t, "later.yaml", clusterYAML("after-many", "10.0.0.1:80")))
	t.Run("refused", func(t *testing.T) {
		s := sharedSite(t)
		s.unchanged(t)
		wantRefused(t, s.Run("meshctl", append([]string{"delete"}, names...)...), 65, fault.CodeLargeRemoval, "--allow-large-change")
		one := s.write(t, "one.yaml", clusterYAML("many-0", "10.0.0.1:80"))
		wantRefused(t, s.Run("meshctl", "apply", "-f", one, "--field-manager", "bulk", "--prune"), 65, fault.CodeLargeRemoval)
		wantRefused(t, s.Run("meshctl", "undo", fmt.Sprint(history.Items[0].Seq)), 65, fault.CodeLargeRemoval)
	})
	s.Ctl(append([]string{"delete", "--allow-large-change"}, names...)...)
	if out := s.Ctl("get", "clusters", "-o", "name"); strings.Contains(out, "many-") {
		t.Errorf("a large removal that was meant left\n%s", out)
	}
}

// TestALargeNarrowingOfScopesNeedsToBeMeant takes resources from every agent without
// removing one: their new scope holds no node.
func TestALargeNarrowingOfScopesNeedsToBeMeant(t *testing.T) {
	s := sharedSite(t)
	var wide, narrow strings.Builder
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("cluster/scoped-%d", i))
		text := clusterYAML(fmt.Sprintf("scoped-%d", i), "10.0.0.1:80")
		wide.WriteString("---\n" + text)
		narrow.WriteString("---\n" + strings.Replace(text, "spec:", "scope:\n  nodeLabels:\n    region: nowhere\nspec:", 1))
	}
	everyone, nobody := s.write(t, "everyone.yaml", wide.String()), s.write(t, "nobody.yaml", narrow.String())
	s.Ctl("apply", "-f", everyone)
	t.Run("refused", func(t *testing.T) {
		s := sharedSite(t)
		s.unchanged(t)
		wantRefused(t, s.Run("meshctl", "apply", "-f", nobody), 65, fault.CodeLargeRemoval, nobody+":7:3: ",
			"30 of them leave nodes because their scope was narrowed", "--allow-large-change")
	})
	s.Ctl("apply", "-f", nobody, "--allow-large-change")
	s.Ctl("apply", "-f", everyone) // widening is free
	s.Ctl("undo")                  // the newest change never needs the flag, though this narrows again
	if out := s.Ctl("get", "cluster", "scoped-0", "-o", "yaml"); !strings.Contains(out, "nowhere") {
		t.Errorf("after the undo of a widening\n%s", out)
	}
	s.Ctl(append([]string{"delete", "--allow-large-change"}, names...)...) // no other test on the site has scopes
}
