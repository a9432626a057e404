package resource

import (
	"cmp"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// Key identifies a resource within a domain.
type Key struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String renders the key as "Kind/namespace/name".
func (k Key) String() string { return k.Kind + "/" + k.Namespace + "/" + k.Name }

// IsZero says whether no part of the key is set.
func (k Key) IsZero() bool { return k == Key{} }

// Valid says whether each part of the key is well formed.
func (k Key) Valid() bool {
	return validKind(k.Kind) && NamespaceProblem(k.Namespace) == "" && NameProblem(k.Name) == ""
}

// ParseKey reads what Key.String wrote. It checks the shape and the syntax of
// each part, not whether the kind is known.
func ParseKey(s string) (Key, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return Key{}, fault.New(fault.CodeResourceKey, "%s is not a resource key: want Kind/namespace/name", safetext.Quote(s))
	}
	k := Key{Kind: parts[0], Namespace: parts[1], Name: parts[2]}
	if !validKind(k.Kind) {
		return Key{}, fault.New(fault.CodeResourceKey, "%s is not a resource key: %s is not a kind", safetext.Quote(s), safetext.Quote(k.Kind))
	}
	if why := NamespaceProblem(k.Namespace); why != "" {
		return Key{}, fault.New(fault.CodeResourceKey, "%s is not a resource key: namespace %s", safetext.Quote(s), why)
	}
	if why := NameProblem(k.Name); why != "" {
		return Key{}, fault.New(fault.CodeResourceKey, "%s is not a resource key: name %s", safetext.Quote(s), why)
	}
	return k, nil
}

// CompareKeys orders by kind, namespace, name.
func CompareKeys(a, b Key) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// ReferenceKey resolves a reference as written in a spec: "name" is in the
// referrer's own namespace, "namespace/name" elsewhere.
func ReferenceKey(kind, fromNamespace, ref string) Key {
	if ns, name, ok := strings.Cut(ref, "/"); ok {
		return Key{Kind: kind, Namespace: ns, Name: name}
	}
	return Key{Kind: kind, Namespace: fromNamespace, Name: ref}
}

// Ref is one reference from a resource to another.
type Ref struct {
	Target Key
	// Field is the path of the reference, like "spec.rules[0].clusters[0].name".
	Field string
	// Optional: the target may be missing.
	Optional bool
}

// validKind: a kind is a Go-style exported ASCII identifier.
func validKind(s string) bool {
	if s == "" || len(s) > 63 || s[0] < 'A' || s[0] > 'Z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
