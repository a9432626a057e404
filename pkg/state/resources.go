package state

import (
	"bytes"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/resource"
)

// changeSet writes and removes resources. A write that changes neither content
// nor ownership leaves the resource alone; one that changes only ownership
// reaches no node and does not move the config sequence.
func (st *step) changeSet(m *logv1.ChangeSet) error {
	if len(m.GetWrites()) == 0 {
		return bad(st.entry, "it writes nothing")
	}
	w := writer{step: st, resources: st.resources.Txn(), revisions: st.revisions.Txn(), evictions: st.evictions.Txn()}
	seen := make(map[resource.Key]bool, len(m.GetWrites()))
	record := &logv1.ChangeRecord{
		Seq: st.pos.Seq, Term: st.pos.Term, Time: st.entry.GetTime(), Author: st.entry.GetAuthor(),
		RequestId: st.entry.GetRequestId(), Origin: st.entry.GetOrigin(), Message: m.GetMessage(), Undoes: m.GetUndoes(),
	}
	for _, rw := range m.GetWrites() {
		k := resource.Key{Kind: rw.GetKind(), Namespace: rw.GetNamespace(), Name: rw.GetName()}
		if k.Kind == "" || k.Namespace == "" || k.Name == "" {
			return bad(st.entry, "a resource lacks kind, namespace or name")
		}
		if seen[k] {
			return bad(st.entry, "it writes %s twice", k)
		}
		seen[k] = true
		if rw.GetDelete() != (len(rw.GetContent()) == 0) {
			return bad(st.entry, "%s has content and a deletion, or neither", k)
		}
		if err := w.write(k, rw, record); err != nil {
			return err
		}
	}
	w.evict()
	st.resources, st.revisions, st.evictions = w.resources.Commit(), w.revisions.Commit(), w.evictions.Commit()
	st.effect.Config = len(st.effect.Changed) > 0
	changes := st.changes.Txn()
	changes.Insert(seqKey(record.Seq), record)
	for n := st.changes.Len() + 1; n > MaxChanges; n-- {
		oldest, _, _ := changes.Root().Minimum()
		changes.Delete(oldest)
	}
	st.changes = changes.Commit()
	return st.remember(m.GetFingerprint())
}

// writer folds the writes of one change set in transactions of the trees.
type writer struct {
	*step
	resources *iradix.Txn[*Resource]
	revisions *iradix.Txn[*Revision]
	evictions *iradix.Txn[*Revision]
}

func (w *writer) write(k resource.Key, rw *logv1.ResourceWrite, record *logv1.ChangeRecord) error {
	name := []byte(k.String())
	old, exists := w.resources.Get(name)
	if rw.GetDelete() && !exists {
		return bad(w.entry, "it deletes %s, which does not exist", k)
	}
	if len(record.Keys) < MaxChangeKeys {
		record.Keys = append(record.Keys, k.String())
	}
	if rw.GetDelete() {
		w.resources.Delete(name)
		w.supersede(present(old))
		w.keep(Revision{Key: k, Seq: w.pos.Seq, Deleted: true, PreviousSeq: old.Version, SupersededSeq: w.pos.Seq})
		w.trie = w.trie.Delete(k.String())
		w.effect.Changed = append(w.effect.Changed, k)
		record.Deleted++
		return nil
	}
	next := &Resource{
		Key: k, Content: rw.GetContent(), Ownership: rw.GetOwnership(), Generation: 1,
		Version: w.pos.Seq, CreatedAt: timeOf(w.entry), UpdatedAt: timeOf(w.entry),
	}
	sameContent := false
	if exists {
		sameContent = bytes.Equal(old.Content, next.Content)
		if sameContent && bytes.Equal(old.Ownership, next.Ownership) {
			return nil
		}
		next.CreatedAt, next.Generation, next.PreviousSeq = old.CreatedAt, old.Generation+1, old.Version
		if sameContent {
			next.Generation, next.UpdatedAt = old.Generation, old.UpdatedAt
			next.Content = old.Content // one copy
		}
		w.supersede(present(old))
		record.Updated++
	} else {
		if tomb, ok := w.newest(k); ok {
			next.PreviousSeq = tomb.Seq
			w.drop(tomb)
			tomb.SupersededSeq = w.pos.Seq
			w.keep(tomb)
		}
		record.Created++
	}
	w.resources.Insert(name, next)
	if !sameContent {
		w.trie = w.trie.Set(k.String(), next.Content)
		w.effect.Changed = append(w.effect.Changed, k)
	}
	return nil
}

// supersede keeps a content that this entry replaces.
func (w *writer) supersede(r Revision) {
	r.SupersededSeq = w.pos.Seq
	w.keep(r)
}

func (w *writer) keep(r Revision) {
	w.revisions.Insert(revisionKey(r.Key, r.Seq), &r)
	w.evictions.Insert(evictionKey(&r), &r)
	w.revisionBytes += r.cost()
	var oldest *Revision
	n := 0
	it := w.revisions.Root().Iterator()
	it.SeekPrefix(revisionPrefix(r.Key))
	for _, x, ok := it.Next(); ok; _, x, ok = it.Next() {
		if n++; oldest == nil {
			oldest = x
		}
	}
	if n > MaxRevisions {
		w.drop(*oldest)
	}
}

func (w *writer) drop(r Revision) {
	w.revisions.Delete(revisionKey(r.Key, r.Seq))
	w.evictions.Delete(evictionKey(&r))
	w.revisionBytes -= r.cost()
}

// newest finds the newest superseded revision of k.
func (w *writer) newest(k resource.Key) (Revision, bool) {
	var last *Revision
	it := w.revisions.Root().Iterator()
	it.SeekPrefix(revisionPrefix(k))
	for _, x, ok := it.Next(); ok; _, x, ok = it.Next() {
		last = x
	}
	if last == nil {
		return Revision{}, false
	}
	return *last, true
}

// evict drops the revisions that were superseded first until the rest fits.
func (w *writer) evict() {
	for w.revisionBytes > MaxRevisionBytes {
		_, r, ok := w.evictions.Root().Minimum()
		if !ok {
			return
		}
		w.drop(*r)
	}
}
