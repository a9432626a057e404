package bundle_test

import (
	"fmt"

	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/fault"
)

// A data plane takes the payload of a ControlWatchResponse. The first time it has
// nothing but the pin that `meshagent join` wrote; later it has the trust that the last
// bundle left it with.
func ExampleOpen() {
	w := newWorld()
	payload, pin, now := w.payload(17), w.anchors.Pin(), epoch

	pinned, err := bundle.Pin(payload, domain, pin, now)
	if err != nil {
		panic(err)
	}
	b, err := bundle.Open(payload, pinned, now)
	if err != nil {
		panic(err)
	}
	fmt.Println(b.Domain, b.Epoch, b.Version, "signed by", b.Signer.Hub)
	leaf, _ := b.Content.Get("Cluster/default/c0")
	fmt.Println(b.Content.Len(), "resources, one of them:", string(leaf.Content))

	payload[len(payload)-10] ^= 1 // somebody changes a resource
	_, err = bundle.Open(payload, b.Trust, now)
	fmt.Println(fault.CodeOf(err) == fault.CodeDigestMismatch)
	// Output:
	// eu-west 3 17 signed by hub1
	// 5 resources, one of them: {"kind":"Cluster","metadata":{"name":"c0","namespace":"default"},"spec":{"note":"17-0"}}
	// true
}
