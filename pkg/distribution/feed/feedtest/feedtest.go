// Package feedtest makes small content, and the versions that state it, for the tests of
// what publishes, serves and takes views. Nothing is signed.
//
// Functions are pure and safe for concurrent use.
package feedtest

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
)

// The domain and the view of what is made here.
const (
	Domain = "test"
	View   = "view-a"
)

// At is the point epoch.version.
func At(epoch, version uint64) feed.Point { return feed.Point{Epoch: epoch, Version: version} }

// Resource makes the content of a resource of about size bytes.
func Resource(name string, revision, size int) []byte {
	body := fmt.Sprintf(`{"apiVersion":"meshkit.dev/v1","kind":"Route","metadata":{"name":%q,"namespace":"default"},"spec":{"revision":%d`, name, revision)
	return []byte(body + `,"pad":"` + strings.Repeat("x", max(0, size-len(body)-12)) + `"}}`)
}

// Key is the key of the resource with this name.
func Key(name string) string { return "Route/default/" + name }

// Trie makes n resources of size bytes each, named r00000 and so on.
func Trie(n, size int) *digest.Trie {
	var t *digest.Trie
	for i := range n {
		name := fmt.Sprintf("r%05d", i)
		t = t.Set(Key(name), Resource(name, 0, size))
	}
	return t
}

// Manifest states t.
func Manifest(at feed.Point, t *digest.Trie) *trustv1.Manifest {
	root := t.Root()
	return &trustv1.Manifest{
		Domain: Domain, View: View, Epoch: at.Epoch, Version: at.Version,
		Digest: root[:], Count: uint64(t.Len()), TotalBytes: uint64(t.Bytes()),
	}
}

// Version makes a version with an unsigned manifest that states t.
func Version(at feed.Point, t *digest.Trie) feed.Version {
	return feed.Version{Epoch: at.Epoch, Version: at.Version, View: View, Trie: t, At: time.Now(),
		Manifest: envelope("application/vnd.meshkit.manifest.v1+protobuf", Manifest(at, t))}
}

// Freshness makes an unsigned freshness statement for the content with this root.
func Freshness(at feed.Point, root digest.Hash) *trustv1.Envelope {
	return envelope("application/vnd.meshkit.freshness.v1+protobuf", &trustv1.Freshness{Domain: Domain, View: View, Epoch: at.Epoch, Version: at.Version, Digest: root[:]})
}

func envelope(payloadType string, m proto.Message) *trustv1.Envelope {
	payload, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &trustv1.Envelope{Payload: payload, PayloadType: payloadType}
}
