package change

import (
	"bytes"
	"fmt"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/state"
)

// UndoTarget finds the change that an undo without a sequence number means: the
// newest that stands and is not itself an undo, so that undoing again goes
// further back.
func UndoTarget(st *state.State) (uint64, error) {
	for c := range st.Changes() {
		if c.GetUndoes() == 0 && st.UndoneBy(c.GetSeq()) == 0 {
			return c.GetSeq(), nil
		}
	}
	return 0, fault.New(fault.CodeNoSuchChange, "there is no change to undo")
}

// Undo prepares the inverse of the change at seq. It refuses when a later change
// altered one of the same resources, since both would be lost, and when what the
// change replaced is no longer kept.
//
// Undoing the newest change may remove any share of the mesh: it leads back to
// where the domain was a moment ago, and the one who needs it is in a hurry. An
// undo of an older change is held to the limit on removals like any other.
func Undo(st *state.State, g *graph.Graph, seq uint64, message string, allowLarge bool) (*Prepared, error) {
	if len(message) > maxMessage || !printable(message) {
		return nil, fault.New(fault.CodeBadRequest, "message: at most %d printable characters", maxMessage)
	}
	record, ok := st.Change(seq)
	if !ok {
		return nil, fault.New(fault.CodeNoSuchChange, "no change %d is in the history", seq)
	}
	if by := st.UndoneBy(seq); by != 0 {
		return nil, fault.New(fault.CodeCannotUndo, "change %d was undone by %d already", seq, by).
			WithRemedy("`meshctl undo %d` takes that undo back.", by)
	}
	wrote := st.WrittenBy(seq)
	if n := int(record.GetCreated() + record.GetUpdated() + record.GetDeleted()); len(wrote) != n {
		return nil, fault.New(fault.CodeHistoryGone, "change %d touched %d resources, and what it wrote is no longer kept for %d of them", seq, n, n-len(wrote))
	}
	p := &Prepared{before: g, base: st}
	for _, rev := range wrote {
		if err := p.revert(rev, seq); err != nil {
			return nil, err
		}
	}
	if message == "" {
		message = fmt.Sprintf("undo of change %d", seq)
	}
	p.payload = &logv1.ChangeSet{Writes: p.writes, Message: message, Undoes: seq}
	p.validate(nil, allowLarge || seq == newest(st))
	return p, nil
}

// newest gives the sequence number of the newest change, 0 if there is none.
func newest(st *state.State) uint64 {
	for c := range st.Changes() {
		return c.GetSeq()
	}
	return 0
}

func (p *Prepared) revert(rev state.Revision, seq uint64) error {
	live, exists := p.base.Get(rev.Key)
	if exists == rev.Deleted || exists && !bytes.Equal(live.Content, rev.Content) {
		return fault.New(fault.CodeCannotUndo, "%s was changed after change %d", rev.Key, seq)
	}
	w := &logv1.ResourceWrite{Kind: rev.Key.Kind, Namespace: rev.Key.Namespace, Name: rev.Key.Name, Delete: true}
	if rev.PreviousSeq != 0 {
		before, ok := p.base.RevisionAt(rev.Key, rev.PreviousSeq)
		if !ok {
			return fault.New(fault.CodeHistoryGone, "what change %d replaced in %s is not kept any more", seq, rev.Key)
		}
		if !before.Deleted {
			w.Content, w.Ownership, w.Delete = before.Content, before.Ownership, false
		}
	}
	if w.Delete && !exists {
		return nil
	}
	p.writes = append(p.writes, w)
	return nil
}

// Revision compares two revisions of a resource, as history shows them; before
// may be nil.
func Revision(k resource.Key, before, after *state.Revision) (action string, from, to []byte) {
	if before != nil && !before.Deleted {
		from = before.Content
	}
	if after != nil && !after.Deleted {
		to = after.Content
	}
	switch {
	case from == nil && to == nil:
		return ActionUnchanged, nil, nil
	case from == nil:
		return ActionCreate, nil, to
	case to == nil:
		return ActionDelete, from, nil
	case bytes.Equal(from, to):
		return ActionUnchanged, from, to
	}
	return ActionUpdate, from, to
}
