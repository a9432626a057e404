package route

import "math"

// choose picks a cluster of a rule; nil when none has weight.
func (r *rule) choose(req *Request) (*target, string) {
	only, total := (*target)(nil), 0.0
	several := false
	for _, t := range r.targets {
		if t.weight > 0 {
			several = only != nil
			only = t
			total += t.weight
		}
		if several {
			break
		}
	}
	switch {
	case !several:
		return only, "only"
	case req.ShardKey != "":
		return r.rendezvous(req.ShardKey), "shardKey"
	case req.RoutingKey != "":
		return r.rendezvous(req.RoutingKey), "routingKey"
	}
	return r.draw(req.Draw), "draw"
}

// draw picks by a number in [0,1); what lies outside counts as the nearest end.
func (r *rule) draw(x float64) *target {
	total := 0.0
	for _, t := range r.targets {
		total += max(t.weight, 0)
	}
	if math.IsNaN(x) {
		x = 0
	}
	x = min(max(x, 0), 1) * total
	var last *target
	for _, t := range r.targets {
		if t.weight <= 0 {
			continue
		}
		last = t
		if x -= t.weight; x < 0 {
			break
		}
	}
	return last
}

// rendezvous picks by weighted rendezvous hashing: the target with the greatest
// weight ÷ −ln(u), where u in (0,1) is a hash of key and target. Each key then goes
// to a target in proportion to its weight, and moves only to a target whose share
// grows.
func (r *rule) rendezvous(key string) *target {
	var best *target
	highest := -1.0
	for _, t := range r.targets {
		if t.weight <= 0 {
			continue
		}
		if score := t.weight / -math.Log(unit(key, t.name)); score > highest {
			best, highest = t, score
		}
	}
	return best
}

// unit hashes two texts to a number in (0,1): FNV-1a over key, a zero byte and name,
// mixed by the finalizer of splitmix64, its upper 53 bits over 2^53.
func unit(key, name string) float64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * prime
	}
	h *= prime // the zero byte
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * prime
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	h ^= h >> 31
	return (float64(h>>11) + 0.5) / (1 << 53)
}
