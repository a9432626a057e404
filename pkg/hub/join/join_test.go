package join

import (
	"testing"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

func FuzzJoinRequest(f *testing.F) {
	good, err := proto.Marshal(&identityv1.JoinRequest{Token: "id.secret", Node: "node-a", Csr: []byte{1}, RequestId: "r"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := new(identityv1.JoinRequest)
		if proto.Unmarshal(data, in) != nil {
			return
		}
		r, err := Parse("eu-west", in)
		if err != nil {
			if fault.CodeOf(err) == "" {
				t.Fatalf("an error without a code: %v", err)
			}
			return
		}
		if r.id.Name != in.GetNode() || r.tokenID == "" || (in.GetRequestId() == "") != (r.fingerprint == nil) {
			t.Fatalf("accepted %v as %v", in, r)
		}
	})
}
