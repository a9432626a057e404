// Package change computes what a change to the mesh would do: it decodes and
// merges what an operator sends, validates the mesh that would result, and says
// in fields, in words and in agents what is different.
//
//	set, err := change.Decode(req.GetChange(), limits)
//	prepared, err := set.Prepare(state, graph)      // merged and validated
//	plan := prepared.Describe(nodes)                // for people; costs more
//
// Everything here is pure: the same input gives the same result on every hub,
// and nothing is committed. Prepare is called again when the mesh has moved
// between planning and committing. Values are not modified once returned.
package change

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/hub/ssa"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/state"
)

// DefaultManager is the field manager of a change that names none.
const DefaultManager = "meshctl"

// Bounds of the texts of a change, in bytes.
const (
	maxManager = 128
	maxMessage = 1024
)

// Set is a decoded change.
type Set struct {
	docs    []document
	index   map[resource.Key]int32 // place in the request
	deletes []resource.Key
	change  *adminv1.Change
	manager string
	limits  resource.Limits
	// findings of decoding; errors among them refuse the change.
	findings []*adminv1.Finding
}

// document is one resource to apply. A partial one lacks required fields: it is
// fine as a contribution to a resource that exists.
type document struct {
	key     resource.Key
	content []byte
	version uint64
	partial []resource.Finding
}

// Decode checks the form of a change: limits, documents (strictly, with every
// rule that concerns one resource), names, duplicates. Mistakes in documents are
// findings of the result; the error is for what makes the request as a whole
// unusable.
func Decode(c *adminv1.Change, lim resource.Limits) (*Set, error) {
	s := &Set{change: c, manager: c.GetFieldManager(), limits: lim, index: make(map[resource.Key]int32)}
	if s.manager == "" {
		s.manager = DefaultManager
	}
	if len(s.manager) > maxManager || !printable(s.manager) {
		return nil, fault.New(fault.CodeBadRequest, "field_manager: at most %d printable characters", maxManager)
	}
	if len(c.GetMessage()) > maxMessage || !printable(c.GetMessage()) {
		return nil, fault.New(fault.CodeBadRequest, "message: at most %d printable characters", maxMessage)
	}
	if n := len(c.GetResources()) + len(c.GetDeletes()); n == 0 && !c.GetPrune() {
		return nil, fault.New(fault.CodeBadRequest, "the change holds neither resources nor deletes")
	} else if n > lim.RequestResources {
		return nil, fault.New(fault.CodeRequestTooLarge, "the change holds %d resources, more than %d", n, lim.RequestResources)
	}
	bytes := 0
	for i, data := range c.GetResources() {
		if bytes += len(data); bytes > lim.RequestBytes {
			return nil, fault.New(fault.CodeRequestTooLarge, "the change holds more than %d bytes", lim.RequestBytes)
		}
		s.decode(int32(i), data)
	}
	for _, k := range c.GetDeletes() {
		s.addDelete(KeyOf(k))
	}
	return s, nil
}

func (s *Set) decode(i int32, data []byte) {
	docs, findings := kind.Decode("", data, s.limits)
	if len(docs) == 0 {
		if d, ok := partialOf(data, findings, s.limits); ok {
			s.add(i, document{key: d.Resource.Key(), content: d.Content, version: d.ResourceVersion, partial: d.missing})
			return
		}
	}
	for _, f := range findings {
		s.findings = append(s.findings, FindingOf(f, i))
	}
	if len(docs) > 1 {
		s.findings = append(s.findings, FindingOf(resource.Errorf(fault.CodeBadRequest, docs[1].Resource.Key(), "", "send one document each", "one item of the request holds %d documents", len(docs)), i))
		return
	}
	for _, d := range docs {
		s.add(i, document{key: d.Resource.Key(), content: d.Content, version: d.ResourceVersion})
	}
}

func (s *Set) add(i int32, d document) {
	if first, dup := s.index[d.key]; dup {
		s.findings = append(s.findings, FindingOf(resource.Errorf(fault.CodeDuplicate, d.key, "", "remove one of the two", "the resource is also item %d of the request", first), i))
		return
	}
	s.index[d.key] = i
	s.docs = append(s.docs, d)
}

func (s *Set) addDelete(k resource.Key) {
	if _, dup := s.index[k]; dup {
		s.findings = append(s.findings, FindingOf(resource.Errorf(fault.CodeDuplicate, k, "", "apply it or delete it", "the change both applies and deletes the resource, or deletes it twice"), -1))
		return
	}
	s.index[k] = -1
	s.deletes = append(s.deletes, k)
}

// Prepared is a change merged into one state and validated.
type Prepared struct {
	before, after *graph.Graph
	base          *state.State
	findings      []*adminv1.Finding
	writes        []*logv1.ResourceWrite
	unchanged     []resource.Key
	payload       *logv1.ChangeSet
}

// Prepare merges the change into a state whose graph is g. It fails when the
// state is not the one that the caller planned on (fault.CodeBaseMoved) or a
// resource to delete does not exist; what validation finds is in the result.
func (s *Set) Prepare(st *state.State, g *graph.Graph) (*Prepared, error) {
	if b := s.change.GetBase(); b > 0 && b != st.ConfigSeq() {
		return nil, fault.New(fault.CodeBaseMoved, "the change stands on config sequence %d, and the mesh is at %d", b, st.ConfigSeq())
	}
	p := &Prepared{before: g, base: st, findings: append([]*adminv1.Finding(nil), s.findings...)}
	for _, d := range s.docs {
		if err := p.apply(s, d); err != nil {
			return nil, err
		}
	}
	for _, k := range s.deletes {
		if _, ok := st.Get(k); !ok {
			return nil, fault.New(fault.CodeNoSuchResource, "%s does not exist", k)
		}
		p.remove(k)
	}
	if s.change.GetPrune() {
		if err := p.prune(s); err != nil {
			return nil, err
		}
	}
	p.payload = &logv1.ChangeSet{Writes: p.writes, Message: s.change.GetMessage(), FieldManager: s.manager}
	p.validate(s.index, s.change.GetAllowLargeChange())
	return p, nil
}

func (p *Prepared) apply(s *Set, d document) error {
	live, exists := p.base.Get(d.key)
	if d.version > 0 && (!exists || live.Version != d.version) {
		return fault.New(fault.CodeBaseMoved, "%s is not at resource version %d any more", d.key, d.version)
	}
	if !exists && len(d.partial) > 0 {
		for _, f := range d.partial {
			p.findings = append(p.findings, FindingOf(f, s.index[d.key]))
		}
		return nil
	}
	var content, ownership []byte
	if exists {
		content, ownership = live.Content, live.Ownership
	}
	res, err := ssa.Apply(d.key.Kind, content, ownership, d.content, s.manager, s.change.GetForceConflicts())
	if err != nil {
		return fmt.Errorf("apply %s: %w", d.key, err)
	}
	if len(res.Conflicts) > 0 {
		for _, c := range res.Conflicts {
			p.findings = append(p.findings, FindingOf(resource.Errorf(fault.CodeFieldConflict, d.key, c.Field,
				"leave the field out, or take it with --force-conflicts", "field manager %q owns this field with another value", c.Manager), s.index[d.key]))
		}
		return nil
	}
	p.write(s, d.key, res, string(res.Content) != string(d.content) || len(d.partial) > 0)
	return nil
}

// write adds a merged resource; recheck says that the merge made something that
// nobody has validated yet.
func (p *Prepared) write(s *Set, k resource.Key, res ssa.Result, recheck bool) {
	if live, ok := p.base.Get(k); ok && string(live.Content) == string(res.Content) {
		p.unchanged = append(p.unchanged, k)
		if string(live.Ownership) == string(res.Ownership) {
			return
		}
		recheck = false
	}
	if recheck {
		docs, findings := kind.Decode("", res.Content, s.limits)
		if len(docs) == 1 {
			res.Content = docs[0].Content
		}
		for _, f := range findings {
			p.findings = append(p.findings, FindingOf(f, indexOf(s.index, k)))
		}
	}
	p.writes = append(p.writes, &logv1.ResourceWrite{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name, Content: res.Content, Ownership: res.Ownership})
}

func (p *Prepared) remove(k resource.Key) {
	p.writes = append(p.writes, &logv1.ResourceWrite{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name, Delete: true})
}

// prune takes away what the manager owns and did not name.
func (p *Prepared) prune(s *Set) error {
	for r := range p.base.Resources("", "") {
		if _, named := s.index[r.Key]; named {
			continue
		}
		any, sole := ssa.Manages(r.Ownership, s.manager)
		switch {
		case sole:
			p.remove(r.Key)
		case any:
			res, err := ssa.Release(r.Key.Kind, r.Content, r.Ownership, s.manager)
			if err != nil {
				return fmt.Errorf("prune %s: %w", r.Key, err)
			}
			p.write(s, r.Key, res, true)
		}
	}
	return nil
}

func (p *Prepared) validate(index map[resource.Key]int32, allowLarge bool) {
	p.after = p.before
	if len(p.writes) == 0 || p.Refused() {
		return
	}
	changes := make([]graph.Change, len(p.writes))
	for i, w := range p.writes {
		changes[i] = graph.Change{Key: resource.Key{Kind: w.GetKind(), Namespace: w.GetNamespace(), Name: w.GetName()}}
		if !w.GetDelete() {
			changes[i].Content = w.GetContent()
		}
	}
	after, findings := p.before.Update(changes)
	p.after = after
	for _, f := range findings {
		p.findings = append(p.findings, FindingOf(f, indexOf(index, f.Key)))
	}
	for _, f := range graph.CheckRemoval(p.before, after) {
		if allowLarge {
			f.Severity, f.Remedy = resource.Warning, ""
		}
		p.findings = append(p.findings, FindingOf(f, indexOf(index, f.Key)))
	}
}

// Refused tells whether a finding refuses the change.
func (p *Prepared) Refused() bool {
	for _, f := range p.findings {
		if f.GetSeverity() == string(resource.Error) {
			return true
		}
	}
	return false
}

// Err is nil, or the refusal with its first finding.
func (p *Prepared) Err() error {
	n := 0
	var first *adminv1.Finding
	for _, f := range p.findings {
		if f.GetSeverity() == string(resource.Error) {
			if n++; first == nil {
				first = f
			}
		}
	}
	if n == 0 {
		return nil
	}
	code := fault.CodeChangeInvalid
	if first.GetCode() == string(fault.CodeFieldConflict) || first.GetCode() == string(fault.CodeLargeRemoval) {
		code = fault.Code(first.GetCode())
	}
	text := fmt.Sprintf("%s: %s", first.GetCode(), first.GetReason())
	if where := Where(first); where != "" {
		text = fmt.Sprintf("%s: %s: %s", first.GetCode(), where, first.GetReason())
	}
	if n > 1 {
		text += fmt.Sprintf(" (and %d more)", n-1)
	}
	return fault.New(code, "nothing was changed: %s", text).WithRemedy("%s", first.GetRemedy())
}

// Where names the resource and field that a finding concerns, or the item of the
// request; empty when it concerns the change as a whole.
func Where(f *adminv1.Finding) string {
	k := KeyOf(f.GetResource())
	switch {
	case !k.IsZero():
		return strings.TrimSpace(k.String() + " " + f.GetField())
	case f.GetIndex() >= 0:
		return strings.TrimSpace(fmt.Sprintf("item %d %s", f.GetIndex(), f.GetField()))
	}
	return f.GetField()
}

// Findings lists what validation found, errors and warnings.
func (p *Prepared) Findings() []*adminv1.Finding { return p.findings }

// Empty tells whether there is nothing to commit.
func (p *Prepared) Empty() bool { return len(p.writes) == 0 }

// Payload is the entry to commit, with the request's fingerprint.
func (p *Prepared) Payload(fingerprint []byte) *logv1.ChangeSet {
	c := proto.CloneOf(&logv1.ChangeSet{Message: p.payload.GetMessage(), FieldManager: p.payload.GetFieldManager(), Undoes: p.payload.GetUndoes()})
	c.Writes, c.Fingerprint = p.writes, fingerprint
	return c
}

// Base is the state that the change was merged into; After the graph it leads to.
func (p *Prepared) Base() *state.State  { return p.base }
func (p *Prepared) After() *graph.Graph { return p.after }

// KeyOf and KeyTo convert keys from and to the wire; an empty namespace is the
// default one.
func KeyOf(k *adminv1.Key) resource.Key {
	ns := k.GetNamespace()
	if ns == "" && k.GetName() != "" {
		ns = resource.DefaultNamespace
	}
	return resource.Key{Kind: k.GetKind(), Namespace: ns, Name: k.GetName()}
}

// KeyTo is the inverse of KeyOf.
func KeyTo(k resource.Key) *adminv1.Key {
	return &adminv1.Key{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name}
}

// FindingOf puts a finding into wire form; index is the item of the request that
// it concerns, or -1.
func FindingOf(f resource.Finding, index int32) *adminv1.Finding {
	return &adminv1.Finding{
		Code: string(f.Code), Severity: string(f.Severity), Resource: KeyTo(f.Key), Field: f.Field,
		Reason: f.Reason, Remedy: f.Remedy, Index: index,
	}
}

func indexOf(index map[resource.Key]int32, k resource.Key) int32 {
	if i, ok := index[k]; ok {
		return i
	}
	return -1
}
