package digest_test

import (
	"fmt"

	"github.com/meshkit/meshkit/pkg/digest"
)

func ExampleDiff() {
	var old *digest.Trie
	old = old.Set("Route/default/checkout", []byte(`{"v":1}`)).Set("Cluster/default/a", []byte(`{}`))
	now := old.Set("Route/default/checkout", []byte(`{"v":2}`)).Delete("Cluster/default/a")
	for c := range digest.Diff(old, now) {
		if c.After == nil {
			fmt.Println("removed", c.Key)
		} else {
			fmt.Println("now", c.Key, string(c.After.Content))
		}
	}
	proof, _ := now.Prove("Route/default/checkout")
	fmt.Println(proof.Verify(now.Root(), "Route/default/checkout", []byte(`{"v":2}`)))
	// Unordered output:
	// removed Cluster/default/a
	// now Route/default/checkout {"v":2}
	// <nil>
}
