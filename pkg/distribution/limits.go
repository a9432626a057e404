package distribution

import controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"

// Limits bound what a node takes. Zero fields mean the default.
type Limits struct {
	MessageBytes  int   // one message; default 4 MiB
	ResourceBytes int   // one resource; default 256 KiB
	BundleBytes   int64 // all content of a view; default 128 MiB
	Resources     int   // resources of a view; default 50,000
}

// DefaultLimits are the limits of both ends unless configured.
func DefaultLimits() Limits {
	return Limits{MessageBytes: 4 << 20, ResourceBytes: 256 << 10, BundleBytes: 128 << 20, Resources: 50_000}
}

// WithDefaults gives l with the default for each field that is not set.
func (l Limits) WithDefaults() Limits {
	d := DefaultLimits()
	if l.MessageBytes <= 0 {
		l.MessageBytes = d.MessageBytes
	}
	if l.ResourceBytes <= 0 {
		l.ResourceBytes = d.ResourceBytes
	}
	if l.BundleBytes <= 0 {
		l.BundleBytes = d.BundleBytes
	}
	if l.Resources <= 0 {
		l.Resources = d.Resources
	}
	return l
}

func (l Limits) proto() *controlv1.Limits {
	return &controlv1.Limits{MaxMessageBytes: uint64(l.MessageBytes), MaxResourceBytes: uint64(l.ResourceBytes), MaxBundleBytes: uint64(l.BundleBytes), MaxResources: uint64(l.Resources)}
}
