package cliutil

import (
	"cmp"
	"slices"
	"strings"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
)

// Lists that are not kinds of resources.
const (
	Agents  = "agents"
	Hubs    = "hubs"
	Domains = "domains"
	Tokens  = "tokens"
	All     = "all"
)

var lists = map[string]string{
	"agents": Agents, "agent": Agents, "nodes": Agents, "node": Agents,
	"hubs": Hubs, "hub": Hubs,
	"domains": Domains, "domain": Domains,
	"tokens": Tokens, "token": Tokens,
	"all": All,
}

// Ref is what an argument like "route/checkout" names: a kind of resource
// (Descriptor) or another list (List), and perhaps one thing in it.
type Ref struct {
	Descriptor      *kind.Descriptor
	List            string
	Namespace, Name string
}

// Topics are the names that arguments may use, for completion and suggestions:
// plurals of the kinds, then the other lists.
func Topics() []string {
	var out []string
	for _, d := range kind.All() {
		out = append(out, d.Plural)
	}
	return append(out, Agents, Hubs, Domains, Tokens, All)
}

// KindNames are the kinds in lower case, as arguments name one resource.
func KindNames() []string {
	var out []string
	for _, d := range kind.All() {
		out = append(out, strings.ToLower(d.Kind))
	}
	return out
}

// ParseRef reads "KIND", "KIND NAME", "KIND/NAME" or "KIND/NAMESPACE/NAME" from
// one or two arguments. namespace is used where the argument names none.
func ParseRef(args []string, namespace string) (Ref, error) {
	word, name := args[0], ""
	if len(args) == 2 {
		name = args[1]
	}
	ref := Ref{Namespace: cmp.Or(namespace, resource.DefaultNamespace)}
	if parts := strings.Split(word, "/"); len(parts) > 1 {
		if name != "" || len(parts) > 3 || slices.Contains(parts, "") {
			return Ref{}, Usagef("argument %q: want KIND/NAME or KIND/NAMESPACE/NAME", strings.Join(args, " "))
		}
		if len(parts) == 3 {
			ref.Namespace = parts[1]
		}
		word, name = parts[0], parts[len(parts)-1]
	}
	ref.Name = name
	if d, ok := kind.Lookup(word); ok {
		ref.Descriptor = d
		if ref.Name == "" {
			return ref, nil
		}
		if why := resource.NameProblem(ref.Name); why != "" {
			return Ref{}, Usagef("name %q %s", ref.Name, why)
		}
		if why := resource.NamespaceProblem(ref.Namespace); why != "" {
			return Ref{}, Usagef("namespace %q %s", ref.Namespace, why)
		}
		return ref, nil
	}
	if l, ok := lists[strings.ToLower(word)]; ok {
		ref.List = l
		return ref, nil
	}
	return Ref{}, NoSuchKind(word)
}

// NoSuchKind is the error for a word that names no kind, with the nearest one.
func NoSuchKind(word string) error {
	err := fault.New(fault.CodeNoSuchKind, "no kind %q", word)
	if near, ok := resource.FindField(word, append(Topics(), KindNames()...)); ok {
		return err.WithRemedy("did you mean %q? `meshctl explain` lists every kind", near)
	}
	return err
}

// Key is the resource that r names.
func (r Ref) Key() resource.Key {
	return resource.Key{Kind: r.Descriptor.Kind, Namespace: r.Namespace, Name: r.Name}
}

// WireKey is k as the admin API writes it.
func WireKey(k resource.Key) *adminv1.Key {
	return &adminv1.Key{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name}
}

// KeyOf is the reverse of WireKey.
func KeyOf(k *adminv1.Key) resource.Key {
	return resource.Key{Kind: k.GetKind(), Namespace: k.GetNamespace(), Name: k.GetName()}
}

// Short writes a key as people do: "route/checkout", with the namespace unless
// it is the default one.
func Short(k resource.Key) string {
	kindName := strings.ToLower(k.Kind)
	if k.Namespace == "" || k.Namespace == resource.DefaultNamespace {
		return kindName + "/" + k.Name
	}
	return kindName + "/" + k.Namespace + "/" + k.Name
}
