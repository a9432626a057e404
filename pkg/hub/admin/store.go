package admin

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backup"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Store implements adminv1.StoreServiceServer.
type Store struct {
	adminv1.UnimplementedStoreServiceServer
	*base
	// exporting is held by the one backup that is sent.
	exporting sync.Mutex
}

// Export implements adminv1.StoreServiceServer: all that was committed when it was
// called, on any hub. It goes as fast as the caller reads; the hub sends one at a time.
func (s *Store) Export(_ *adminv1.ExportRequest, stream grpc.ServerStreamingServer[adminv1.ExportResponse]) error {
	if !s.exporting.TryLock() {
		return fault.New(fault.CodeExportCut, "hub %s sends a backup to someone else", s.Hub)
	}
	defer s.exporting.Unlock()
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-s.Stopping:
			cancel(s.stopping())
		case <-done:
		}
	})
	defer wg.Wait()
	defer close(done)
	if err := s.Replica.Barrier(ctx); err != nil {
		return err
	}
	l, err := s.Replica.Log()
	if err != nil {
		return err
	}
	cur, err := s.current()
	if err != nil {
		return err
	}
	if _, err := s.Keys.Follow(ctx, cur.State); err != nil {
		return err
	}
	signer, anchors, err := s.Keys.Signer()
	if err != nil {
		return err
	}
	out := &exportWriter{ctx: ctx, send: stream.Send}
	if err := backup.Write(ctx, out, backup.Source{
		Log: l, State: cur.State, Hub: s.Hub, Build: s.Build, Time: time.Now(), Signer: signer, Anchors: anchors,
	}); err != nil {
		return err
	}
	return out.flush()
}

// exportBytes is what one message of an export holds.
const exportBytes = 256 << 10

// exportWriter sends what is written to it in messages. Send blocks while the caller
// does not read.
type exportWriter struct {
	ctx  context.Context
	send func(*adminv1.ExportResponse) error
	buf  []byte
}

func (w *exportWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), exportBytes-len(w.buf))
		w.buf, rest = append(w.buf, rest[:n]...), rest[n:]
		if len(w.buf) == exportBytes {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (w *exportWriter) flush() error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	if len(w.buf) == 0 {
		return nil
	}
	err := w.send(&adminv1.ExportResponse{Data: w.buf})
	w.buf = nil // the message may still be read
	return err
}
