package trust_test

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/proto"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/trust"
)

func pae(payloadType string, payload []byte) []byte { return dsse.PAE(payloadType, payload) }

// hostile is metadata that go-tuf would take or stumble over: null roles and
// keys, and keys of a wrong length.
func hostile(t testing.TB, root []byte) [][]byte {
	var out [][]byte
	for _, spoil := range []func(signed map[string]any){
		func(s map[string]any) { s["roles"].(map[string]any)["root"] = nil },
		func(s map[string]any) { s["roles"].(map[string]any)["timestamp"] = nil },
		func(s map[string]any) { s["roles"] = nil },
		func(s map[string]any) { s["keys"] = nil },
		func(s map[string]any) { s["version"] = -1 },
		func(s map[string]any) { s["version"] = 1e18 },
		func(s map[string]any) { s["spec_version"] = "2.0.0" },
		func(s map[string]any) {
			for id := range s["keys"].(map[string]any) {
				s["keys"].(map[string]any)[id] = nil
			}
		},
		func(s map[string]any) {
			for _, k := range s["keys"].(map[string]any) {
				k := k.(map[string]any)
				k["keytype"], k["scheme"], k["keyval"] = "ed25519", "ed25519", map[string]any{"public": "abcd"}
			}
		},
		func(s map[string]any) {
			for _, k := range s["keys"].(map[string]any) {
				k.(map[string]any)["x"] = 1
			}
		},
		func(s map[string]any) { // under an id that is not its own
			keys, root := s["keys"].(map[string]any), s["roles"].(map[string]any)["root"].(map[string]any)
			lie := strings.Repeat("0", 64)
			ids := root["keyids"].([]any)
			keys[lie] = keys[ids[0].(string)]
			ids[0] = lie
		},
		func(s map[string]any) { // under its id, but to be used differently
			for _, k := range s["keys"].(map[string]any) {
				k.(map[string]any)["scheme"] = "ecdsa-sha2-nistp384"
			}
		},
		func(s map[string]any) {
			s["roles"].(map[string]any)["root"].(map[string]any)["threshold"] = 0
		},
		func(s map[string]any) {
			r := s["roles"].(map[string]any)["root"].(map[string]any)
			ids := r["keyids"].([]any)
			r["keyids"] = []any{ids[0], ids[0]}
		},
	} {
		var doc map[string]any
		if err := json.Unmarshal(root, &doc); err != nil {
			t.Fatal(err)
		}
		spoil(doc["signed"].(map[string]any))
		out = append(out, must(t)(json.Marshal(doc)))
	}
	return append(out, nil, []byte("null"), []byte(`{"signed":null}`), []byte(`{"signed":{"_type":"root"}}`), []byte(`{"signatures":null,"signed":{"_type":"root","keys":{}}}`))
}

func TestHostileRootIsRefusedWithoutPanic(t *testing.T) {
	w := newWorld(t)
	for _, data := range hostile(t, w.root) {
		if _, err := trust.Pin(domain, data, epoch); !isCode(err, fault.CodeMetadataInvalid) {
			t.Errorf("%.120s…: %v", data, err)
		}
	}
}

func FuzzPinAndUpdate(f *testing.F) {
	w := newWorld(f)
	f.Add(w.root, w.keyset, w.bundle)
	f.Add(w.keyset, w.root, w.bundle)
	for _, data := range hostile(f, w.root) {
		f.Add(data, []byte(strings.ReplaceAll(string(w.keyset), "hub/", "hub")), w.bundle)
	}
	a := w.anchors(f)
	f.Fuzz(func(t *testing.T, root, keyset, bundle []byte) {
		_, _ = trust.Pin(domain, root, epoch)
		b, err := a.Update(&trustv1.Metadata{Roots: [][]byte{root}, Keyset: keyset, CaBundle: bundle}, epoch)
		if err == nil && b != a {
			t.Fatal("metadata that no key holder signed was accepted")
		}
	})
}

func FuzzLoad(f *testing.F) {
	w := newWorld(f)
	a := w.anchors(f)
	pin := a.Pin()
	data := must(f)(a.Marshal())
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = trust.Load(domain, pin, data)
		// Past the outer hash, which no mutation would get right.
		sum := sha256.Sum256(data)
		b, err := trust.Load(domain, pin, slices.Concat([]byte("meshkit-trust-1\n"), sum[:], data))
		if err == nil && b.Pin() != pin {
			t.Fatal("anchors from another root were loaded")
		}
	})
}

func FuzzVerifyManifest(f *testing.F) {
	w := newWorld(f)
	a := w.anchors(f)
	good := signed(f, w.hub1, manifest(7))
	f.Add(must(f)(proto.Marshal(good)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		env := &trustv1.Envelope{}
		if proto.Unmarshal(data, env) != nil {
			return
		}
		m, _, err := a.VerifyManifest(env, epoch)
		if err == nil && string(env.Payload) != string(good.Payload) {
			t.Fatalf("accepted what hub1 did not sign: %v", m)
		}
		if other, ok := trust.Equivocation(env, good); ok {
			_, _ = a.VerifyEvidence(other)
		}
	})
}
