package ssa

import (
	"strings"
	"testing"
)

const envelope = `{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"c","namespace":"default"LABELS},"spec":SPEC}`

func doc(labels, spec string) []byte {
	if labels != "" {
		labels = `,"labels":` + labels
	}
	return []byte(strings.NewReplacer("LABELS", labels, "SPEC", spec).Replace(envelope))
}

// applied runs one apply and fails on an error; conflicts are the caller's.
func applied(t *testing.T, live, ownership, config []byte, manager string, force bool) Result {
	t.Helper()
	r, err := Apply("Cluster", live, ownership, config, manager, force)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAManagerRemovesAFieldByLeavingItOut(t *testing.T) {
	a := applied(t, nil, nil, doc(`{"team":"x"}`, `{"endpoints":[{"address":"a:1"}]}`), "a", false)
	b := applied(t, a.Content, a.Ownership, doc("", `{"endpoints":[{"address":"a:1"}]}`), "a", false)
	if strings.Contains(string(b.Content), "team") {
		t.Errorf("the label is still there: %s", b.Content)
	}
}

func TestManagersShareAListByItsItemsNames(t *testing.T) {
	a := applied(t, nil, nil, doc("", `{"endpoints":[{"address":"a:1"}]}`), "a", false)
	both := applied(t, a.Content, a.Ownership, doc("", `{"endpoints":[{"address":"b:1"}]}`), "b", false)
	if len(both.Conflicts) > 0 || !strings.Contains(string(both.Content), "a:1") || !strings.Contains(string(both.Content), "b:1") {
		t.Fatalf("merged to %s with conflicts %v", both.Content, both.Conflicts)
	}
	// a's endpoint goes when a leaves it out; b's stays.
	less := applied(t, both.Content, both.Ownership, doc("", `{"endpoints":[{"address":"c:1"}]}`), "a", false)
	if got := string(less.Content); strings.Contains(got, "a:1") || !strings.Contains(got, "b:1") || !strings.Contains(got, "c:1") {
		t.Errorf("merged to %s", got)
	}
	owners, err := Owners("Cluster", less.Content, less.Ownership)
	if err != nil || len(owners) != 2 {
		t.Errorf("owners %v (%v)", owners, err)
	}
}

func TestAConflictNamesManagerAndField(t *testing.T) {
	a := applied(t, nil, nil, doc("", `{"endpoints":[{"address":"a:1"}],"loadBalancing":"random"}`), "a", false)
	r := applied(t, a.Content, a.Ownership, doc("", `{"endpoints":[{"address":"a:1"}],"loadBalancing":"leastRequest"}`), "b", false)
	if len(r.Conflicts) != 1 || r.Conflicts[0] != (Conflict{Manager: "a", Field: "spec.loadBalancing"}) {
		t.Fatalf("conflicts %v", r.Conflicts)
	}
	forced := applied(t, a.Content, a.Ownership, doc("", `{"endpoints":[{"address":"a:1"}],"loadBalancing":"leastRequest"}`), "b", true)
	if !strings.Contains(string(forced.Content), "leastRequest") {
		t.Errorf("forced to %s", forced.Content)
	}
	// a gave the field up: leaving it out does not remove it.
	left := applied(t, forced.Content, forced.Ownership, doc("", `{"endpoints":[{"address":"a:1"}]}`), "a", false)
	if !strings.Contains(string(left.Content), "leastRequest") {
		t.Errorf("then %s", left.Content)
	}
}

func TestReleaseTakesOnlyWhatOneManagerAloneOwns(t *testing.T) {
	a := applied(t, nil, nil, doc("", `{"endpoints":[{"address":"a:1"}]}`), "a", false)
	b := applied(t, a.Content, a.Ownership, doc(`{"team":"x"}`, `{"endpoints":[{"address":"a:1"}]}`), "b", false)
	r, err := Release("Cluster", b.Content, b.Ownership, "b")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(r.Content); strings.Contains(got, "team") || !strings.Contains(got, "a:1") {
		t.Errorf("released to %s", got)
	}
	if _, sole := Manages(r.Ownership, "a"); !sole {
		t.Errorf("a is not the only manager: %s", r.Ownership)
	}
}
