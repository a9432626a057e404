package feed

import "github.com/prometheus/client_golang/prometheus"

// EncodeUpdate encodes anew at each call, which a feed never does.
var EncodeUpdate = encodeUpdate

// Own is how many bytes the frames hold themselves, not shared with a trie.
func (e *Encoded) Own() int { return e.own }

// Cached tells what p's frames hold: bytes, updates, and updates in their order.
func (p *Published) Cached() (own, made, ordered int) {
	return p.frames.own, len(p.frames.made), len(p.frames.order)
}

// FramesEncoded counts the frames.
func (m *Metrics) FramesEncoded() prometheus.Collector { return m.framesEncoded }
