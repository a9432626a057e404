package subscriber

import (
	"fmt"

	"github.com/meshkit/meshkit/pkg/digest"
)

// short is the head of a digest, as people see it.
func short(h digest.Hash) string { return h.String()[:12] }

// quoteKey makes a key from outside safe to show.
func quoteKey(key string) string {
	if len(key) > 320 {
		key = key[:320] + "…"
	}
	return fmt.Sprintf("%q", key)
}
