package digest

import "github.com/meshkit/meshkit/pkg/fault"

// Step is one branch on the way from the root to a leaf.
type Step struct {
	// Bit of the path at which the branch divides, 0 to 255.
	Bit uint16 `json:"bit"`
	// Sibling is the hash of the side not taken.
	Sibling Hash `json:"sibling"`
}

// Proof shows that one entry belongs to a root. Steps go from the root down; a
// set of n entries gives about log2(n) of them, 34 bytes each.
type Proof struct {
	Steps []Step `json:"steps"`
}

// Prove makes the proof for key; false when the set does not hold it.
func (t *Trie) Prove(key string) (Proof, bool) {
	if t == nil || t.root == nil {
		return Proof{}, false
	}
	path := pathOf(key)
	var p Proof
	n := t.root
	for {
		switch v := n.(type) {
		case *Leaf:
			if v.Key != key {
				return Proof{}, false
			}
			return p, true
		case *inner:
			side := path.bit(v.bit)
			p.Steps = append(p.Steps, Step{Bit: v.bit, Sibling: *v.child[1-side].sum()})
			n = v.child[side]
		}
	}
}

// Verify checks that the set with this root holds content under key. Its error
// has the code CodeProofInvalid.
func (p Proof) Verify(root Hash, key string, content []byte) error {
	if len(p.Steps) > maxBits {
		return fault.New(fault.CodeProofInvalid, "proof for %q has %d steps; a path has %d bits", key, len(p.Steps), maxBits)
	}
	path := pathOf(key)
	h := hashLeaf(&path, content)
	below := uint16(maxBits)
	for i := len(p.Steps) - 1; i >= 0; i-- {
		s := p.Steps[i]
		if s.Bit >= below {
			return fault.New(fault.CodeProofInvalid, "proof for %q: step %d divides at bit %d, not above bit %d", key, i, s.Bit, below)
		}
		below = s.Bit
		if path.bit(s.Bit) == 0 {
			h = hashInner(s.Bit, &h, &s.Sibling)
		} else {
			h = hashInner(s.Bit, &s.Sibling, &h)
		}
	}
	if h != root {
		return fault.New(fault.CodeProofInvalid, "proof for %q leads to root %s, not %s", key, h, root)
	}
	return nil
}
