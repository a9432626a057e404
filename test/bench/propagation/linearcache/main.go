// Command linearcache is a delta ADS server of go-control-plane over its
// LinearCache, for comparison. It is a module of its own, so that the product's
// does not name it. It speaks the protocol of the bench's parts on stdin and stdout:
// see part.go of the bench.
//
//	linearcache RESOURCES
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
)

const typeURL = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "linearcache:", err)
		os.Exit(1)
	}
}

func run() error {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	resources := make(map[string]types.Resource, n)
	for i := range n {
		resources[name(i)] = cluster(i, 0)
	}
	linear := cache.NewLinearCache(typeURL, cache.WithInitialResources(resources))
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, server.NewServer(context.Background(), linear, server.CallbackFuncs{}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = g.Serve(l) }() // ends with the process
	return answer(linear, l.Addr().String())
}

// answer does what the bench asks for until stdin ends.
func answer(linear *cache.LinearCache, address string) error {
	lines := bufio.NewScanner(os.Stdin)
	enc := json.NewEncoder(os.Stdout)
	for revision := 1; lines.Scan(); {
		var req struct {
			Do string `json:"do"`
		}
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			return err
		}
		data := make(map[string]any)
		switch req.Do {
		case "start":
			data["address"] = address
		case "change":
			data["at"] = time.Now().UnixNano()
			if err := linear.UpdateResource(name(1), cluster(1, revision)); err != nil {
				return err
			}
			revision++
		case "memory":
			runtime.GC()
			debug.FreeOSMemory()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			data["bytes"], data["spans"] = m.HeapAlloc+m.StackInuse, m.HeapInuse+m.StackInuse
		}
		if err := enc.Encode(map[string]any{"data": data}); err != nil {
			return err
		}
	}
	return lines.Err()
}

func name(i int) string { return fmt.Sprintf("cluster-%05d", i) }

// cluster is a resource of about 1 KiB.
func cluster(i, revision int) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name(i), AltStatName: strings.Repeat("x", 1000) + strconv.Itoa(revision)}
}
