package views

import (
	"fmt"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/view"
)

// Bounds of what nodes can have this hub compute anew.
const (
	recallsPerSecond = 4
	recallBurst      = 32
	recallsKept      = 1024
)

// forgotten tells whether a node holds an older content of its view that the
// history does not have, as after a start of this hub: it can only be sent a
// snapshot, unless recall finds it. s.mu is held.
func (s *Set) forgotten(a *activeView, h *controlv1.Hello) bool {
	held := h.GetResume()
	root, err := digest.HashOf(held.GetDigest())
	if err != nil || root.IsZero() || held.GetView() != a.view.Class.ID() || held.GetVersion() >= a.base.State.ConfigSeq() {
		return false
	}
	return root != a.view.Trie.Root() && !s.history.Has(root) && !s.recalled[recallID(h)]
}

func recallID(h *controlv1.Hello) string {
	return fmt.Sprintf("%s@%d", h.GetResume().GetView(), h.GetResume().GetVersion())
}

// recall computes what the view held at the version that a hello names, from what
// the state keeps of the past, and adds it to the history. Nodes that come with the
// same version wait for one computation; how many there are is limited.
// s.mu is not held.
func (s *Set) recall(a *activeView, h *controlv1.Hello) {
	id := recallID(h)
	_, _, _ = s.builds.Do("recall "+id, func() (any, error) {
		s.mu.Lock()
		present, base, done := a.view, a.base, s.recalled[id]
		s.mu.Unlock()
		if done || !s.recalls.Allow() {
			return nil, nil
		}
		if older, ok := olderView(present, base, h.GetResume().GetVersion()); ok {
			s.history.Recall(older.Trie, present.Trie)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.recalled) >= recallsKept {
			clear(s.recalled)
		}
		s.recalled[id] = true
		return nil, nil
	})
}

// olderView computes a view as it was at a version; false when what was then is no
// longer known.
func olderView(present *view.View, base *replica.Current, version uint64) (*view.View, bool) {
	past, ok := base.State.Past(version)
	if !ok {
		return nil, false
	}
	changes := make([]graph.Change, 0, len(past))
	keys := make([]resource.Key, 0, len(past))
	for k, content := range past {
		changes = append(changes, graph.Change{Key: k, Content: content})
		keys = append(keys, k)
	}
	g, _ := base.Graph.Update(changes)
	return present.Update(g, keys), true
}
