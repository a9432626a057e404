package decode

import (
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/fieldpath"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"github.com/meshkit/meshkit/pkg/resource/schema"
	"github.com/meshkit/meshkit/pkg/resource/source"
	"go.yaml.in/yaml/v3"
)

// Fields that a server adds to what it shows. Decoding reads past them, so that
// what `get -o yaml` wrote can be edited and applied; they are not content.
var (
	serverFields   = map[string]bool{"status": true}
	serverMetadata = map[string]bool{"generation": true, "resourceVersion": true, "createdAt": true, "updatedAt": true, "owners": true}
)

// envelope appends the canonical form of a resource. It differs from a plain
// object in reading past server fields, filling in the namespace, and knowing
// one apiVersion; with an unknown kind, spec is not looked at.
func (w *walker) envelope(root *yaml.Node, s *schema.Schema, known bool) {
	w.root = s
	if v, n := scalarField(root, "apiVersion"); n != nil && v != resource.APIVersion && source.Target(n).Tag == "!!str" && v != "" {
		w.errorf(fault.CodeAPIVersion, n, (*fieldpath.Path)(nil).Field("apiVersion"), "write apiVersion: "+resource.APIVersion, "apiVersion %s is not known", safetext.Quote(v))
	}
	skip := serverFields
	if !known {
		skip = map[string]bool{"status": true, "spec": true}
	}
	w.object(root, s, nil, skip)
}
