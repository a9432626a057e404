package state

import "github.com/meshkit/meshkit/pkg/resource"

// Past gives what resources held when the newest config entry was the one at version,
// for those that were written since: canonical JSON, nil for a resource that did not
// exist. False: the history that is kept does not reach back that far. A deletion may
// be forgotten altogether: hold what comes out against the digest of that version. It
// costs a walk over all resources and what is kept of their past.
func (s *State) Past(version uint64) (map[resource.Key][]byte, bool) {
	past := make(map[resource.Key][]byte)
	for _, r := range scan(s.resources, nil, nil) {
		if r.Version > version {
			past[r.Key] = nil
		}
	}
	for _, r := range scan(s.revisions, nil, nil) {
		if r.Seq > version || r.SupersededSeq > version {
			past[r.Key] = nil
		}
	}
	for k := range past {
		content, ok := s.heldAt(k, version)
		if !ok {
			return nil, false
		}
		past[k] = content
	}
	return past, true
}

// heldAt gives what k held at version; nil: it did not exist.
func (s *State) heldAt(k resource.Key, version uint64) (content []byte, ok bool) {
	first := uint64(1) // what the oldest revision replaced
	for _, r := range s.Revisions(k) {
		if r.Seq <= version {
			return r.Content, true // nil when it was deleted
		}
		first = r.PreviousSeq
	}
	return nil, first == 0
}
