package distribution_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"google.golang.org/grpc"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
	"github.com/meshkit/meshkit/pkg/wire"
)

// BenchmarkFanOut publishes a one-resource change to streams that ack it, on ten
// connections: ns/op divided by the number of streams is the cost of one stream, both
// ends and the transport included.
func BenchmarkFanOut(b *testing.B) {
	for _, streams := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			l := newLab(b, distribution.ServerConfig{AdmissionRate: 1e6, AdmissionBurst: 1e6, MessageRate: 1e6, MessageBurst: 1e6})
			defer l.stop()
			tries := [2]*digest.Trie{feedtest.Trie(100, 1024)}
			tries[1] = tries[0].Set(feedtest.Key("r00001"), feedtest.Resource("r00001", 1, 1024))
			l.publish(feedtest.At(1, 1), tries[0])
			ctx, cancel := context.WithCancel(context.Background())
			var readers sync.WaitGroup
			got := make(chan struct{}, streams)
			var conns []*grpc.ClientConn
			for i := range streams {
				if i%max(1, streams/40) == 0 {
					conns = append(conns, l.conn())
				}
				s := l.open(ctx, conns[len(conns)-1], &controlv1.Hello{Node: fmt.Sprintf("n%05d", i)})
				readers.Go(func() { ackAll(s, l.feed, got) })
			}
			for range streams {
				<-got
			}
			b.ReportAllocs()
			version := uint64(1)
			for b.Loop() {
				version++
				l.publish(feedtest.At(1, version), tries[(version-1)%2])
				for range streams {
					<-got
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(streams), "ns/stream")
			cancel()
			for _, c := range conns {
				_ = c.Close()
			}
			readers.Wait()
		})
	}
}

// ackAll acks each update with what the feed has now.
func ackAll(s controlv1.ControlService_StreamClient, f *feed.Feed, got chan<- struct{}) {
	for {
		var frame wire.Frame // decoding is not what is measured
		if err := s.RecvMsg(&frame); err != nil {
			return
		}
		if b := frame.Bytes(); b[0] != 2<<3|2 { // StreamResponse.update
			continue
		}
		v, _ := f.Current()
		root := v.Trie.Root()
		if s.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: &controlv1.Ack{Epoch: v.Epoch, Version: v.Version, Digest: root[:]}}}) != nil {
			return
		}
		got <- struct{}{}
	}
}

// BenchmarkIdleStream reports the memory of a stream with nothing to do, both ends and
// the transport included.
func BenchmarkIdleStream(b *testing.B) {
	const streams = 1000
	for range b.N {
		l := newLab(b, distribution.ServerConfig{AdmissionRate: 1e6, AdmissionBurst: 1e6})
		before, goroutines := heap(), runtime.NumGoroutine()
		ctx, cancel := context.WithCancel(context.Background())
		var conns []*grpc.ClientConn
		for i := range streams {
			if i%25 == 0 {
				conns = append(conns, l.conn())
			}
			s := l.open(ctx, conns[len(conns)-1], &controlv1.Hello{Node: fmt.Sprintf("n%05d", i)})
			if _, err := s.Recv(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heap()-before)/streams, "B/stream")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/streams, "goroutines/stream")
		cancel()
		for _, c := range conns {
			_ = c.Close()
		}
		l.stop()
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
