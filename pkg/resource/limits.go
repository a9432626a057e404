package resource

// Limits bound what is read and held. Use DefaultLimits and change single
// fields; the zero Limits refuse everything.
type Limits struct {
	// ResourceBytes is the canonical content of one resource.
	ResourceBytes int
	// DocumentBytes is the text of one document, comments included.
	DocumentBytes int
	// RequestResources and RequestBytes bound one Decode, one apply.
	RequestResources int
	RequestBytes     int
	// BundleResources and BundleBytes bound what one node is given.
	BundleResources int
	BundleBytes     int64
	// Depth bounds the nesting of a document, Values the number of its values
	// once every alias is replaced by what it stands for.
	Depth, Values int
	// StringBytes bounds one text.
	StringBytes int
	// Findings bounds the findings of one Decode.
	Findings int
	// ControlMessageBytes and AdminMessageBytes bound gRPC messages;
	// ChunkBytes what a chunk of an update holds.
	ControlMessageBytes, AdminMessageBytes, ChunkBytes int
}

// DefaultLimits are the limits of hub, agent and command line alike.
func DefaultLimits() Limits {
	return Limits{
		ResourceBytes: 256 << 10, DocumentBytes: 1 << 20,
		RequestResources: 10_000, RequestBytes: 64 << 20,
		BundleResources: 50_000, BundleBytes: 128 << 20,
		Depth: 32, Values: 100_000, StringBytes: 64 << 10, Findings: 100,
		ControlMessageBytes: 4 << 20, AdminMessageBytes: 64 << 20, ChunkBytes: 1 << 20,
	}
}
