package kind_test

import (
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/kind/domainsettings"
	"github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
)

func TestUnknownKindsAndFieldsOfANewerHubAreKept(t *testing.T) {
	o, err := kind.Parse([]byte(`{"apiVersion":"meshkit.dev/v1","kind":"Future","metadata":{"name":"x","namespace":"default"},"spec":{"a":1}}`))
	if err != nil || o.Descriptor != nil || o.Spec != nil || len(o.Refs()) != 0 || len(o.Validate()) != 0 {
		t.Errorf("%+v, %v", o, err)
	}
	o, err = kind.Parse([]byte(`{"apiVersion":"meshkit.dev/v1","kind":"Route","metadata":{"name":"x","namespace":"default"},"spec":{"service":"s","rules":[],"future":{}}}`))
	if err != nil || o.Spec.(*route.Spec).Service != "s" {
		t.Errorf("%+v, %v", o, err)
	}
	_, err = kind.Parse([]byte(`{"apiVersion":"meshkit.dev/v1","kind":"Route","metadata":{"name":"x","namespace":"default"},"spec":{"service":5}}`))
	if fault.CodeOf(err) != fault.CodeResourceContent {
		t.Errorf("a spec of the wrong type gives %v", err)
	}
}

func TestReferencesNameTheirFieldAndTarget(t *testing.T) {
	docs, findings := kind.Decode("x", []byte(`apiVersion: meshkit.dev/v1
kind: Route
metadata: {name: a, namespace: shop}
spec:
  service: s
  policies: [p1]
  rules:
    - name: r
      clusters: [{name: c1, weight: 40}, {name: other/c2, weight: 60}]
      mirror: {cluster: c3}
      policies: [other/p2]
`), resource.DefaultLimits())
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	o, err := kind.FromResource(docs[0].Resource)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"spec.rules[0].clusters[0].name": "Cluster/shop/c1", "spec.rules[0].clusters[1].name": "Cluster/other/c2", "spec.rules[0].mirror.cluster": "Cluster/shop/c3",
		"spec.rules[0].policies[0]": "Policy/other/p2", "spec.policies[0]": "Policy/shop/p1",
	}
	for _, r := range o.Refs() {
		if want[r.Field] != r.Target.String() {
			t.Errorf("%s refers to %s, want %s", r.Field, r.Target, want[r.Field])
		}
		if at, parent := docs[0].Positions.At(r.Field), docs[0].Positions.At("spec"); at == parent {
			t.Errorf("%s has no place of its own", r.Field)
		}
		delete(want, r.Field)
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
}

func TestSettingsAreCompleteWhateverIsWritten(t *testing.T) {
	var none *domainsettings.Spec
	for _, s := range []*domainsettings.Spec{none, {}, {Limits: &domainsettings.Limits{MaxViews: 3}, Freshness: &domainsettings.Freshness{Interval: resource.Duration(60e9)}}} {
		e := s.Effective()
		if e.Limits == nil || e.Limits.MaxRemovalPercent == nil || e.Limits.MaxResources == 0 || e.Limits.MaxBundleBytes == 0 || e.Limits.MaxViews == 0 || e.Freshness.StaleAfter < 2*e.Freshness.Interval || e.Probation.Period == 0 || e.Probation.MaxRestarts == 0 {
			t.Errorf("%+v leaves holes: %+v", s, e)
		}
	}
	zero := 0.0
	s := &domainsettings.Spec{Limits: &domainsettings.Limits{MaxRemovalPercent: &zero}, SLO: []domainsettings.SLO{{Region: "*", P99: 5}, {Region: "eu", P99: 2}}}
	if got := s.Effective().Limits.MaxRemovalPercent; *got != 0 {
		t.Errorf("an explicit 0 became %v", *got)
	}
	for region, want := range map[string]int{"eu": 2, "us": 5} {
		if got, ok := s.Target(region); !ok || int(got) != want {
			t.Errorf("target of %s is %v", region, got)
		}
	}
}

func TestTiersHoldEndpointsByRegionAndZone(t *testing.T) {
	at := func(region, zone string) *cluster.Locality { return &cluster.Locality{Region: region, Zone: zone} }
	for _, tc := range []struct {
		tier cluster.Priority
		at   *cluster.Locality
		want bool
	}{
		{cluster.Priority{Regions: []string{"eu"}}, at("eu", "a"), true},
		{cluster.Priority{Regions: []string{"eu"}, Zones: []string{"b"}}, at("eu", "a"), false},
		{cluster.Priority{Zones: []string{"a"}}, at("eu", "a"), true},
		{cluster.Priority{Regions: []string{"us"}}, at("eu", "a"), false},
		{cluster.Priority{Regions: []string{"eu"}}, nil, false},
		{cluster.Priority{}, at("eu", "a"), false},
	} {
		if got := tc.tier.Holds(tc.at); got != tc.want {
			t.Errorf("%+v holds %+v: %v", tc.tier, tc.at, got)
		}
	}
}
