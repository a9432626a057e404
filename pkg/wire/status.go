// Package wire is how MeshKit programs talk over gRPC: the one mapping between
// fault errors and gRPC statuses with google.rpc details, interceptors that apply
// it, the options every server and client is made with, a codec that sends
// pre-encoded frames, and trace context in metadata.
//
// A server is made with grpc.NewServer(append(wire.ServerOptions(cfg), creds)...)
// and its handlers return plain errors; a client with grpc.NewClient(target,
// append(wire.DialOptions(cfg), creds)...) and its callers get *fault.Error back.
//
// Everything here is safe for concurrent use.
package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshkit/meshkit/pkg/fault"
)

// ErrorDomain is the domain of the ErrorInfo in every status of MeshKit.
const ErrorDomain = "meshkit.dev"

// Bounds of what a status carries: messages are for people, and gRPC sends
// statuses as HTTP/2 headers, which have a limit of their own.
const (
	maxStatusMessage = 2 << 10
	maxRemedy        = 1 << 10
	maxViolations    = 16
)

// grpcCodes is the one table from kinds to gRPC codes.
var grpcCodes = map[fault.Kind]codes.Code{
	fault.Internal:        codes.Internal,
	fault.Invalid:         codes.InvalidArgument,
	fault.NotFound:        codes.NotFound,
	fault.AlreadyExists:   codes.AlreadyExists,
	fault.Conflict:        codes.Aborted,
	fault.Unauthenticated: codes.Unauthenticated,
	fault.Denied:          codes.PermissionDenied,
	fault.Unavailable:     codes.Unavailable,
	fault.Unknown:         codes.Unknown,
	fault.Exhausted:       codes.ResourceExhausted,
	fault.Timeout:         codes.DeadlineExceeded,
	fault.Canceled:        codes.Canceled,
	fault.Corrupt:         codes.DataLoss,
}

// foreignCodes says what a status without a code of ours means: it comes from
// gRPC itself, or from a peer that is not MeshKit.
var foreignCodes = map[codes.Code]fault.Code{
	codes.Unavailable:       fault.CodeNoConnection,
	codes.DeadlineExceeded:  fault.CodeTimeout,
	codes.Canceled:          fault.CodeCanceled,
	codes.Unimplemented:     fault.CodeNotOffered,
	codes.Unauthenticated:   fault.CodeUnauthenticated,
	codes.PermissionDenied:  fault.CodeDenied,
	codes.ResourceExhausted: fault.CodeRemoteLimit,
}

// Violation is one wrong field of a request.
type Violation struct{ Field, Description string }

// hinted adds to an error what its status should carry beside it.
type hinted struct {
	error
	retry      time.Duration
	violations []Violation
}

func (h *hinted) Unwrap() error { return h.error }

// WithRetry says that the caller should come back after d: the status carries
// RetryInfo.
func WithRetry(err error, d time.Duration) error { return &hinted{error: err, retry: d} }

// WithViolations names the wrong fields: the status carries BadRequest, with at
// most 16 of them.
func WithViolations(err error, v ...Violation) error { return &hinted{error: err, violations: v} }

// RetryAfter gives the wait that err asks for, on either side of the wire.
func RetryAfter(err error) (time.Duration, bool) {
	for err != nil {
		h, ok := errors.AsType[*hinted](err)
		if !ok {
			return 0, false
		}
		if h.retry > 0 {
			return h.retry, true
		}
		err = h.error
	}
	return 0, false
}

// Violations gives the wrong fields that err names.
func Violations(err error) []Violation {
	var out []Violation
	for err != nil {
		h, ok := errors.AsType[*hinted](err)
		if !ok {
			break
		}
		out = append(out, h.violations...)
		err = h.error
	}
	return out
}

// Status gives the status of an error: nil is OK; an error of package fault keeps
// its code, message and remedy; a status stays what it is; the end of a context
// is named as such; anything else is an internal error, whose text stays here.
func Status(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		if s, ok := errors.AsType[interface {
			error
			GRPCStatus() *status.Status
		}](err); ok {
			return s.GRPCStatus()
		}
		f = foreign(err)
		err = f
	}
	return build(f, err)
}

// foreign turns an error that is not ours into one that is.
func foreign(err error) *fault.Error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.CodeTimeout, "deadline passed")
	case errors.Is(err, context.Canceled):
		return fault.New(fault.CodeCanceled, "the caller went away")
	}
	return fault.New(fault.CodeInternal, "internal error")
}

func build(f *fault.Error, err error) *status.Status {
	code, ok := grpcCodes[f.Kind]
	if !ok {
		code = codes.Internal
	}
	s := status.New(code, clip(err.Error(), maxStatusMessage))
	info := &errdetails.ErrorInfo{Reason: string(f.Code), Domain: ErrorDomain}
	if r := fault.RemedyOf(f); r != "" {
		info.Metadata = map[string]string{"remedy": clip(r, maxRemedy)}
	}
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(info)}
	if d, ok := RetryAfter(err); ok {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(d)}))
	}
	if v := Violations(err); len(v) > 0 {
		bad := &errdetails.BadRequest{}
		for _, one := range v[:min(len(v), maxViolations)] {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: clip(one.Field, 256), Description: clip(one.Description, 512)})
		}
		details = append(details, protoadapt.MessageV1Of(bad))
	}
	if with, err := s.WithDetails(details...); err == nil {
		return with
	}
	return s
}

// FromStatus gives the error that a peer's status stands for: a *fault.Error with
// the peer's code, message and remedy, wrapped so that RetryAfter and Violations
// find their details. Nil, io.EOF and errors without a status come back as they are.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	carrier, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err)
	if !ok {
		return err
	}
	s := carrier.GRPCStatus()
	f := &fault.Error{Code: foreignCode(s.Code()), Message: s.Message()}
	if e, ok := fault.Lookup(f.Code); ok {
		f.Kind = e.Kind
	}
	var out error = f
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == ErrorDomain {
				f.Code, f.Kind, f.Remedy = fault.Code(d.GetReason()), kindOf(s.Code()), d.GetMetadata()["remedy"]
			}
		case *errdetails.RetryInfo:
			if wait := d.GetRetryDelay().AsDuration(); wait > 0 {
				out = WithRetry(out, wait)
			}
		case *errdetails.BadRequest:
			var v []Violation
			for _, one := range d.GetFieldViolations() {
				v = append(v, Violation{Field: one.GetField(), Description: one.GetDescription()})
			}
			out = WithViolations(out, v...)
		}
	}
	return out
}

func foreignCode(c codes.Code) fault.Code {
	if code, ok := foreignCodes[c]; ok {
		return code
	}
	return fault.CodeRemoteRefused
}

// kindOf inverts grpcCodes, which maps no two kinds to one code.
func kindOf(c codes.Code) fault.Kind {
	for kind, code := range grpcCodes {
		if code == c {
			return kind
		}
	}
	return fault.Internal
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:n], ""), len(s))
}
