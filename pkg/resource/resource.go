// Package resource is the envelope around all that MeshKit distributes: keys,
// metadata and scope, canonical content, the limits on them, and the findings
// that say what is wrong with one.
//
// The packages below it read files into resources: source parses text, schema
// describes what a kind holds, decode checks the one against the other.
//
// The package is pure: no I/O, no goroutines, no clock. All functions are safe
// for concurrent use; values are plain data, to be treated as immutable once
// shared.
package resource

import (
	"bytes"
	"encoding/json"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource/jcs"
)

// APIVersion is the one version of the envelope and of every kind in this build.
const APIVersion = "meshkit.dev/v1"

// DefaultNamespace is where a resource lives that names no namespace.
const DefaultNamespace = "default"

// Metadata names a resource and carries what operators attach to it.
type Metadata struct {
	Name        string            `json:"name" required:"true" format:"name" doc:"Name, unique within kind and namespace: lower-case letters, digits, '-' and '.', at most 253 characters."`
	Namespace   string            `json:"namespace,omitempty" format:"namespace" default:"default" doc:"Namespace: lower-case letters, digits and '-', at most 63 characters."`
	Labels      map[string]string `json:"labels,omitempty" format:"labels" doc:"Labels for selecting resources, like team: payments. At most 64; keys and values as in Kubernetes."`
	Annotations map[string]string `json:"annotations,omitempty" format:"annotations" doc:"Free notes for people and tools, distributed with the resource. At most 64, together at most 64 KiB."`
}

// Scope limits which nodes are given a resource.
type Scope struct {
	NodeLabels map[string]string `json:"nodeLabels,omitempty" format:"labels" doc:"Only nodes whose labels (from their join token) hold every one of these pairs are given the resource."`
}

// Resource is the envelope around a kind's spec. Treat it as immutable once it
// is shared between goroutines.
type Resource struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   Metadata        `json:"metadata"`
	Scope      *Scope          `json:"scope,omitempty"`
	Spec       json.RawMessage `json:"spec"`
}

// Key identifies the resource.
func (r *Resource) Key() Key {
	return Key{Kind: r.Kind, Namespace: r.Metadata.Namespace, Name: r.Metadata.Name}
}

// Canonical is the resource's content as stored, hashed and distributed: RFC
// 8785 canonical JSON of the envelope. Equal resources give equal bytes.
func (r *Resource) Canonical() ([]byte, error) { return jcs.Marshal(r) }

// ParseCanonical reads content that was validated before it was stored or
// signed. It keeps kinds and spec fields that this build does not know, and
// does not check them again. The resource's Spec shares content's bytes: do not
// change them.
func ParseCanonical(content []byte) (*Resource, error) {
	r := new(Resource)
	if err := json.Unmarshal(content, r); err != nil {
		return nil, fault.New(fault.CodeResourceContent, "parse resource content: %w", err)
	}
	if r.APIVersion == "" || r.Kind == "" || r.Metadata.Name == "" || len(r.Spec) == 0 {
		return nil, fault.New(fault.CodeResourceContent, "parse resource content: apiVersion, kind, metadata.name or spec is missing")
	}
	// In canonical order spec comes last. Sharing its bytes with content instead
	// of keeping json's copy halves what a loaded mesh holds.
	if at := len(content) - 1 - len(r.Spec); at > 0 && bytes.Equal(content[at:len(content)-1], r.Spec) {
		r.Spec = json.RawMessage(content[at : len(content)-1 : len(content)-1])
	}
	return r, nil
}
