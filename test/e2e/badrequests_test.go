package e2e

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

func clusterJSON(name, address string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":%q},"spec":{"endpoints":[{"address":%q}]}}`, name, address)
}

// TestTheHubTrustsNoClientsChecks sends past meshctl what meshctl would not send:
// the hub refuses each with a code, and changes nothing.
func TestTheHubTrustsNoClientsChecks(t *testing.T) {
	s := sharedSite(t)
	s.unchanged(t)
	api := resources(t, s.hub)
	good := clusterJSON("good", "10.0.0.1:80")
	many := make([][]byte, 10_001)
	for i := range many {
		many[i] = clusterJSON(fmt.Sprintf("c%d", i), "10.0.0.1:80")
	}
	change := func(c *adminv1.Change) *adminv1.ApplyRequest { return &adminv1.ApplyRequest{Change: c} }
	content := func(text string) *adminv1.ApplyRequest {
		return change(&adminv1.Change{Resources: [][]byte{good, []byte(text)}})
	}
	for name, c := range map[string]struct {
		req  *adminv1.ApplyRequest
		code fault.Code
	}{
		"nothing":                   {&adminv1.ApplyRequest{}, fault.CodeBadRequest},
		"not JSON":                  {content("\x00\xff"), fault.CodeChangeInvalid},
		"unknown field":             {content(`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"b"},"spec":{"endponts":[]}}`), fault.CodeChangeInvalid},
		"key twice":                 {content(`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","kind":"Route","metadata":{"name":"b"},"spec":{}}`), fault.CodeChangeInvalid},
		"escape in a name":          {content(`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"b\u001b[2J"},"spec":{"endpoints":[{"address":"10.0.0.1:80"}]}}`), fault.CodeChangeInvalid},
		"escape in a label":         {content(`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"b","labels":{"a":"\u001b"}},"spec":{"endpoints":[{"address":"10.0.0.1:80"}]}}`), fault.CodeChangeInvalid},
		"name twice":                {change(&adminv1.Change{Resources: [][]byte{good, good}}), fault.CodeChangeInvalid},
		"oversize resource":         {content(`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"b","annotations":{"a":"` + strings.Repeat("x", 300<<10) + `"}},"spec":{"endpoints":[{"address":"10.0.0.1:80"}]}}`), fault.CodeChangeInvalid},
		"too many resources":        {change(&adminv1.Change{Resources: many}), fault.CodeRequestTooLarge},
		"oversize request":          {change(&adminv1.Change{Resources: [][]byte{make([]byte, 65<<20)}}), fault.CodeRemoteLimit},
		"delete of what is not":     {change(&adminv1.Change{Deletes: []*adminv1.Key{{Kind: "Cluster", Namespace: "default", Name: "nowhere"}}}), fault.CodeNoSuchResource},
		"escape in the message":     {change(&adminv1.Change{Resources: [][]byte{good}, Message: "a\x1b[2J"}), fault.CodeBadRequest},
		"escape in the manager":     {change(&adminv1.Change{Resources: [][]byte{good}, FieldManager: "a\x1b[2J"}), fault.CodeBadRequest},
		"escape in the request id":  {&adminv1.ApplyRequest{RequestId: "a\x1b", Change: &adminv1.Change{Resources: [][]byte{good}}}, fault.CodeBadRequest},
		"request id without end":    {&adminv1.ApplyRequest{RequestId: strings.Repeat("a", 10_000), Change: &adminv1.Change{Resources: [][]byte{good}}}, fault.CodeBadRequest},
		"base from the future":      {change(&adminv1.Change{Resources: [][]byte{good}, Base: 1 << 62}), fault.CodeBaseMoved},
		"reference to nothing":      {content(`{"apiVersion":"meshkit.dev/v1","kind":"Route","metadata":{"name":"b"},"spec":{"service":"b","rules":[{"name":"a","clusters":[{"name":"nowhere"}]}]}}`), fault.CodeChangeInvalid},
		"removal of what is needed": {change(&adminv1.Change{Deletes: []*adminv1.Key{{Kind: "Cluster", Namespace: "default", Name: "payments"}}}), fault.CodeChangeInvalid},
	} {
		_, err := api.Apply(limited(t), c.req)
		wantCode(t, name, err, c.code)
	}
	_, err := api.List(limited(t), &adminv1.ListRequest{PageToken: "\xff\x00garbage"})
	wantCode(t, "garbage as page token", err, fault.CodeBadRequest, fault.CodeRemoteRefused)
	_, err = api.Get(limited(t), &adminv1.GetRequest{Key: &adminv1.Key{Kind: "\x1b", Name: "\x1b"}})
	wantCode(t, "garbage as key", err, fault.CodeBadRequest, fault.CodeNoSuchResource)
}

// TestGarbageAsAMessageIsRefused sends bytes that are no message of the method.
func TestGarbageAsAMessageIsRefused(t *testing.T) {
	s := sharedSite(t)
	s.unchanged(t)
	conn := dial(t, s.hub, adminFiles(s.hub))
	for _, method := range []string{"ResourceService/Apply", "ResourceService/Undo", "FleetService/CreateToken", "TrustService/PublishTrust"} {
		var out wire.Frame
		err := conn.Invoke(limited(t), "/meshkit.admin.v1."+method, wire.NewFrame([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")), &out, grpc.ForceCodecV2(wire.NewCodec()))
		if fault.CodeOf(err) == "" {
			t.Errorf("%s answered garbage with %v, which has no code", method, err)
		}
	}
}
