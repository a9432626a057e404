package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryCodeSurvivesTheWire(t *testing.T) {
	for _, e := range fault.All() {
		sent := fault.New(e.Code, "what happened to %s", e.Code).WithRemedy("do %s", e.Code)
		got := FromStatus(Status(sent).Err())
		if fault.CodeOf(got) != e.Code || fault.KindOf(got) != e.Kind || got.Error() != sent.Error() || fault.RemedyOf(got) != sent.Remedy {
			t.Errorf("%s (%s) arrived as %s (%s): %v", e.Code, e.Kind, fault.CodeOf(got), fault.KindOf(got), got)
		}
	}
}

func TestNoTwoKindsShareAStatus(t *testing.T) {
	seen := map[codes.Code]fault.Kind{}
	for kind, code := range grpcCodes {
		if other, dup := seen[code]; dup {
			t.Errorf("%s and %s are both %s", kind, other, code)
		}
		seen[code] = kind
	}
}

func TestStatusCarriesDetails(t *testing.T) {
	err := WithViolations(WithRetry(fault.New(fault.CodeAdmission, "wait"), 3*time.Second), Violation{"spec.weight", "not a number"})
	s := Status(err)
	if s.Code() != codes.ResourceExhausted || len(s.Details()) != 3 {
		t.Fatalf("status %v with %d details", s, len(s.Details()))
	}
	info, ok := s.Details()[0].(*errdetails.ErrorInfo)
	if !ok || info.GetDomain() != ErrorDomain || info.GetReason() != string(fault.CodeAdmission) || info.GetMetadata()["remedy"] == "" {
		t.Errorf("the first detail is %v", s.Details()[0])
	}
	back := FromStatus(s.Err())
	if wait, ok := RetryAfter(back); !ok || wait != 3*time.Second {
		t.Errorf("retry after %s", wait)
	}
	if v := Violations(back); len(v) != 1 || v[0].Field != "spec.weight" {
		t.Errorf("violations %v", v)
	}
	if !errors.Is(back, fault.CodeAdmission) {
		t.Errorf("%v is not %s", back, fault.CodeAdmission)
	}
}

func TestForeignErrorsGetACode(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want fault.Code
	}{
		{status.Error(codes.Unavailable, "connection refused"), fault.CodeNoConnection},
		{status.Error(codes.Unimplemented, "unknown method"), fault.CodeNotOffered},
		{status.Error(codes.Unknown, "?"), fault.CodeRemoteRefused},
		{Status(context.DeadlineExceeded).Err(), fault.CodeTimeout},
		{Status(errors.New("secret in the text")).Err(), fault.CodeInternal},
	} {
		got := FromStatus(tc.err)
		if fault.CodeOf(got) != tc.want {
			t.Errorf("%v became %s, want %s", tc.err, fault.CodeOf(got), tc.want)
		}
		if strings.Contains(got.Error(), "secret") {
			t.Error("the text of an error without a code left the program")
		}
	}
	if got := FromStatus(io.EOF); got != io.EOF {
		t.Errorf("io.EOF became %v", got)
	}
	if Status(nil).Code() != codes.OK || FromStatus(nil) != nil {
		t.Error("no error became one")
	}
}

func TestLongMessagesAreClippedAtARune(t *testing.T) {
	s := Status(fault.New(fault.CodeInternal, "%s", strings.Repeat("é", maxStatusMessage)))
	if len(s.Message()) > maxStatusMessage+40 || strings.ContainsRune(s.Message(), '\ufffd') {
		t.Errorf("message of %d bytes", len(s.Message()))
	}
}

func TestCodecPassesFramesAndMessages(t *testing.T) {
	c := NewCodec()
	message := &controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{Node: "n1"}}}
	frame, err := Encode(message)
	if err != nil {
		t.Fatal(err)
	}
	split := NewFrame(frame.Bytes()[:3], nil, frame.Bytes()[3:])
	for name, v := range map[string]any{"message": message, "frame": frame, "frame of parts": split} {
		data, err := c.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var got controlv1.StreamRequest
		if err := c.Unmarshal(data, &got); err != nil || !proto.Equal(&got, message) {
			t.Errorf("%s: arrived as %v, %v", name, &got, err)
		}
		var raw Frame
		if err := c.Unmarshal(data, &raw); err != nil || !bytes.Equal(raw.Bytes(), frame.Bytes()) || raw.Size() != frame.Size() {
			t.Errorf("%s: raw bytes differ (%v)", name, err)
		}
	}
	if _, err := c.Marshal("text"); err == nil {
		t.Error("encoded what is no message")
	}
}

func TestCodecRefusesLargeControlRequestsBeforeDecoding(t *testing.T) {
	data := mem.BufferSlice{mem.SliceBuffer(bytes.Repeat([]byte{0xff}, MaxControlRequest+1))} // no valid protobuf either
	err := NewCodec().Unmarshal(data, &controlv1.StreamRequest{})
	if !errors.Is(err, fault.CodeMessageTooLarge) {
		t.Errorf("got %v", err)
	}
}

func FuzzCodec(f *testing.F) {
	hello, err := Encode(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{Node: "n1", Protocols: []string{"v1"}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hello.Bytes(), 4)
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		at = max(0, min(at, len(data)))
		in := mem.BufferSlice{mem.SliceBuffer(data[:at]), mem.SliceBuffer(data[at:])}
		var m controlv1.StreamRequest
		c := NewCodec()
		if c.Unmarshal(in, &m) != nil {
			return
		}
		out, err := c.Marshal(&m)
		if err != nil {
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		var again controlv1.StreamRequest
		if err := c.Unmarshal(out, &again); err != nil || !proto.Equal(&m, &again) {
			t.Fatalf("not the same after a round trip: %v", err)
		}
	})
}

type memConn struct{ net.Conn }

func (memConn) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "memory", Net: "unix"} }
func (memConn) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

type memListener struct{ *bufconn.Listener }

func (l memListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return memConn{c}, nil
}

// serve runs a server with one unary and one bidirectional method, and gives a
// connection to it.
func serve(t *testing.T, cfg ServerConfig, unary func(context.Context) error, stream func(grpc.ServerStream) error) (*grpc.ClientConn, func()) {
	t.Helper()
	g := grpc.NewServer(append(ServerOptions(cfg), grpc.Creds(local.NewCredentials()))...)
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Service", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, dec func(any) error, mid grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			return mid(ctx, in, &grpc.UnaryServerInfo{FullMethod: "/test.Service/Unary"}, func(ctx context.Context, _ any) (any, error) { return in, unary(ctx) })
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Stream", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return stream(s) }}},
	}, nil)
	l := bufconn.Listen(64 << 10)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(memListener{l}) })
	conn, err := grpc.NewClient("passthrough:///test", append(DialOptions(DialConfig{}), grpc.WithTransportCredentials(local.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := l.DialContext(ctx)
			if err != nil {
				return nil, err
			}
			return memConn{c}, nil
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	return conn, func() {
		_ = conn.Close()
		g.Stop()
		serving.Wait()
	}
}

func TestPanicBecomesAnInternalErrorAndALogLine(t *testing.T) {
	var log bytes.Buffer
	conn, stop := serve(t, ServerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))},
		func(context.Context) error { panic("unary secret") }, func(grpc.ServerStream) error { panic("stream secret") })
	err := conn.Invoke(t.Context(), "/test.Service/Unary", &emptypb.Empty{}, &emptypb.Empty{})
	if !errors.Is(err, fault.CodeInternal) || strings.Contains(err.Error(), "secret") {
		t.Errorf("the unary call ended with %v", err)
	}
	s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Service/Stream")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&emptypb.Empty{}); !errors.Is(err, fault.CodeInternal) {
		t.Errorf("the stream ended with %v", err)
	}
	stop()
	for _, want := range []string{"unary secret", "stream secret", "/test.Service/Unary"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func TestUnaryCallsHaveADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, stop := serve(t, ServerConfig{UnaryTimeout: 7 * time.Second}, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}, nil)
		defer stop()
		start := time.Now()
		err := conn.Invoke(t.Context(), "/test.Service/Unary", &emptypb.Empty{}, &emptypb.Empty{})
		if took := time.Since(start); took != 7*time.Second || !errors.Is(err, fault.CodeTimeout) {
			t.Errorf("ended after %s with %v", took, err)
		}
	})
}

func TestCancelCallInterruptsAHandlerThatReceives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("enough")
		var got error
		conn, stop := serve(t, ServerConfig{}, nil, func(s grpc.ServerStream) error {
			cancel, ok := CancelCall(s.Context())
			if !ok {
				return errors.New("no cancel")
			}
			time.AfterFunc(time.Second, func() { cancel(cause) })
			_ = s.RecvMsg(&emptypb.Empty{}) // the client sends nothing
			got = context.Cause(s.Context())
			return got
		})
		defer stop()
		s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Service/Stream")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(&emptypb.Empty{}); !errors.Is(err, fault.CodeCanceled) {
			t.Errorf("the client was told %v", err)
		}
		synctest.Wait()
		if got != cause {
			t.Errorf("the handler's cause is %v", got)
		}
	})
}

func TestCancelCallInterruptsAHandlerThatSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := make(chan error, 1)
		conn, stop := serve(t, ServerConfig{}, nil, func(s grpc.ServerStream) error {
			cancel, _ := CancelCall(s.Context())
			time.AfterFunc(time.Second, func() { cancel(errors.New("enough")) })
			var err error
			for err == nil {
				err = s.SendMsg(NewFrame(make([]byte, 32<<10)))
			}
			sent <- err
			return err
		})
		defer stop()
		if _, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Service/Stream"); err != nil {
			t.Fatal(err)
		}
		start := time.Now() // the client reads nothing
		if err := <-sent; err == nil || time.Since(start) != time.Second {
			t.Errorf("sending ended with %v after %s", err, time.Since(start))
		}
	})
}

func TestBacklogCountsWhatIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBacklog()
		f := NewFrame(make([]byte, 32<<10))
		full, end := make(chan int), make(chan struct{})
		conn, stop := serve(t, ServerConfig{}, nil, func(s grpc.ServerStream) error {
			sent := 0
			for b.Len() == 0 && sent < 1000 {
				if err := s.SendMsg(b.Message(f)); err != nil {
					return err
				}
				sent++
				time.Sleep(time.Second) // for gRPC to write it, if it can
			}
			full <- sent
			<-end
			return nil
		})
		defer stop()
		s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Service/Stream")
		if err != nil {
			t.Fatal(err)
		}
		sent := <-full // the client has read nothing
		if sent < 2 || b.Len() != 1 {
			t.Errorf("after %d messages, %d are not written; want 1 after the first few", sent, b.Len())
		}
		<-b.Emptied() // from before
		for range sent {
			var got Frame
			if err := s.RecvMsg(&got); err != nil || !bytes.Equal(got.Bytes(), f.Bytes()) {
				t.Fatalf("received %d bytes: %v", got.Size(), err)
			}
		}
		<-b.Emptied()
		if b.Len() != 0 {
			t.Errorf("%d messages count as not written after the client has read all", b.Len())
		}
		close(end)
	})
}

func TestTraceContextTravels(t *testing.T) {
	const tp = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	var got string
	conn, stop := serve(t, ServerConfig{}, func(ctx context.Context) error {
		got = Traceparent(ctx)
		return nil
	}, nil)
	defer stop()
	ctx := WithTraceparent(t.Context(), tp)
	if !trace.SpanContextFromContext(ctx).IsRemote() {
		t.Fatal("no remote span")
	}
	if err := conn.Invoke(ctx, "/test.Service/Unary", &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
	if got != tp {
		t.Errorf("arrived as %q", got)
	}
	if Traceparent(WithTraceparent(t.Context(), "nonsense")) != "" {
		t.Error("nonsense became a trace")
	}
}
