package wire

import (
	"context"
	"slices"

	"google.golang.org/grpc/metadata"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Consistency is how new the answer of a read must be.
type Consistency string

// Consistencies of a read.
const (
	// ConsistencyDefault is linearizable while the store answers; otherwise the hub
	// answers with what it has, and says so.
	ConsistencyDefault Consistency = "default"
	// ConsistencyLinearizable sees every write that was acknowledged before the read
	// began, by whichever hub, or fails.
	ConsistencyLinearizable Consistency = "linearizable"
	// ConsistencyStale is what the hub that is asked has, at once.
	ConsistencyStale Consistency = "stale"
)

// Consistencies lists them.
var Consistencies = []string{string(ConsistencyDefault), string(ConsistencyLinearizable), string(ConsistencyStale)}

// Headers of reads: what the caller asks for, and, of the answer, why it may be
// stale.
const (
	ConsistencyHeader = "meshkit-consistency"
	StaleHeader       = "meshkit-stale"
)

// ParseConsistency reads the name of one; "" is the default.
func ParseConsistency(s string) (Consistency, error) {
	if s == "" {
		return ConsistencyDefault, nil
	}
	if !slices.Contains(Consistencies, s) {
		return "", fault.New(fault.CodeBadRequest, "consistency %q is none of default, linearizable and stale", s)
	}
	return Consistency(s), nil
}

// AskedConsistency is what the caller of ctx asks for.
func AskedConsistency(ctx context.Context) (Consistency, error) {
	values := metadata.ValueFromIncomingContext(ctx, ConsistencyHeader)
	if len(values) == 0 {
		return ConsistencyDefault, nil
	}
	return ParseConsistency(values[0])
}
