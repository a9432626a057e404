//go:build linux

package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

// The clients of other systems write the few messages that they need by hand, so that
// every variant has the same client and the bench needs none of their libraries.

// field appends a length-delimited field.
func field(b []byte, number protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), v)
}

// find gives the first length-delimited field with this number, nil if there is none.
func find(b []byte, number protowire.Number) []byte {
	for len(b) > 0 {
		n, t, size := protowire.ConsumeTag(b)
		if size < 0 {
			return nil
		}
		b = b[size:]
		if n == number && t == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b)
			return v
		}
		if size = protowire.ConsumeFieldValue(n, t, b); size < 0 {
			return nil
		}
		b = b[size:]
	}
	return nil
}

// clusterType is the type of the resources that the LinearCache server holds.
const clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

// adsScript subscribes to all clusters by delta ADS and acks each response.
type adsScript struct{ bare }

func (adsScript) method() string {
	return "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
}

// hello is DeltaDiscoveryRequest{node{id}, type_url}.
func (adsScript) hello(i int) ([]byte, error) {
	node := field(nil, 1, fmt.Sprintf("node-%05d", i))
	return field(field(nil, 1, string(node)), 2, clusterType), nil
}

// take answers DeltaDiscoveryResponse{…, nonce = 5} with a request of that nonce. The
// first response holds everything, which is far more than a change.
func (adsScript) take(b []byte) (event, []byte, error) {
	nonce := find(b, 5)
	if nonce == nil {
		return other, nil, fmt.Errorf("a response without nonce")
	}
	ack := field(field(nil, 2, clusterType), 6, string(nonce))
	if len(b) > 64<<10 {
		return ready, ack, nil
	}
	return change, ack, nil
}

// etcdKey is what all etcd clients watch.
const etcdKey = "bench"

// etcdScript watches one key.
type etcdScript struct{ bare }

func (etcdScript) method() string { return "/etcdserverpb.Watch/Watch" }

// hello is WatchRequest{create_request{key}}.
func (etcdScript) hello(int) ([]byte, error) {
	return field(nil, 1, string(field(nil, 1, etcdKey))), nil
}

// take looks for events, field 11 of WatchResponse; the first response has none.
func (etcdScript) take(b []byte) (event, []byte, error) {
	if find(b, 11) == nil {
		return ready, nil, nil
	}
	return change, nil, nil
}

// etcdPut writes a value under the key that is watched.
func etcdPut(ctx context.Context, conn *grpc.ClientConn, value []byte) error {
	put := field(field(nil, 1, etcdKey), 2, string(value)) // PutRequest{key, value}
	return conn.Invoke(ctx, "/etcdserverpb.KV/Put", &message{put}, &message{}, grpc.ForceCodecV2(bytesCodec{}))
}

func dialPlain(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}
