//go:build linux

package main

import (
	"time"

	"github.com/meshkit/meshkit/pkg/mtls"
)

// serverSpec says what a server part is to be.
type serverSpec struct {
	Kind string `json:"kind"` // floor, plain, hub
	// Acked: the floor's clients answer each message.
	Acked bool `json:"acked,omitempty"`
	// Tuned: the floor runs with the gRPC settings of MeshKit instead of grpc-go's own.
	Tuned bool `json:"tuned,omitempty"`
	// Files are the server's certificate; empty: no TLS.
	Files mtls.Files `json:"files"`
	// Resources of the plain server's view; Dir is where it keeps its log.
	Resources int    `json:"resources,omitempty"`
	Dir       string `json:"dir,omitempty"`
}

// started answers "start".
type started struct {
	Address string `json:"address"`
}

// changeRequest asks for one change; Bytes is the size of the floor's message.
type changeRequest struct {
	Bytes int `json:"bytes"`
}

// changed answers it: At is when the change was asked for, in nanoseconds since 1970.
type changed struct {
	At int64 `json:"at"`
}

// now is the clock that all parts of the bench share.
func now() int64 { return time.Now().UnixNano() }

var serverParts = map[string]func(serverSpec) (handlers, error){
	"floor": floorPart,
	"plain": plainPart,
	"hub":   hubPart,
}
