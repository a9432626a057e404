package resource

import "strings"

// FindField gives the candidate nearest to name, by edits and ignoring case,
// if one is near enough to be what was meant. Of equally near ones the first
// wins.
func FindField(name string, candidates []string) (nearest string, ok bool) {
	if len(name) > 64 {
		return "", false
	}
	low := strings.ToLower(name)
	limit := max(1, (len(name)+1)/3) + 1
	best := limit
	for _, c := range candidates {
		cl := strings.ToLower(c)
		d := editDistance(low, cl, limit)
		if d == limit && sameBeginning(low, cl) {
			d = limit - 1 // the farthest that still counts
		}
		if d < best {
			nearest, best, ok = c, d, true
		}
	}
	return nearest, ok
}

// sameBeginning: one is the beginning of the other, or nearly, like policy and
// policies.
func sameBeginning(a, b string) bool {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n >= 3 && n == len(a) || n >= 4 && 2*n >= max(len(a), len(b))
}

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours that turn a into b; limit if it is limit or more.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return min(prev[len(b)], limit)
}
