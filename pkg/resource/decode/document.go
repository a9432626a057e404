package decode

import (
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/source"
)

// Document is one resource as read from a file.
type Document struct {
	Resource *resource.Resource
	// Content is the resource's canonical JSON.
	Content []byte
	// ResourceVersion is metadata.resourceVersion if the file has it (as
	// `meshctl get -o yaml` writes it), else 0. It is not part of Content.
	ResourceVersion uint64
	Positions       source.Positions
}
